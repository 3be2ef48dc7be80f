"""The two small languages of the toy tasks: every English word has one Chinese counterpart, numerals are shared.

A word is one token between spaces. ``translate`` maps a text word by word, which is the toy's stand-in for the
rewriting model of DeepSeek-R1's cold start (R1v2 B.3.2: translate the thinking into the question's language).
"""

from __future__ import annotations

import re

LANGUAGES = ("en", "zh")

REASONING = {
    "first": "首先", "then": "然后", "next": "接着", "so": "所以", "wait": "等等", "check": "检查", "ok": "好的",
    "try": "试", "no": "不对", "yes": "正确", "again": "再来", "hmm": "嗯", "compute": "计算", "make": "凑出",
    "from": "用", "answer": "答案",
}  # fmt: skip
ADJECTIVES = {
    "big": "大", "small": "小", "red": "红", "blue": "蓝", "old": "老", "new": "新", "happy": "开心", "fast": "快",
}  # fmt: skip
NOUNS = {
    "cat": "猫", "dog": "狗", "house": "房子", "tree": "树", "book": "书", "river": "河", "bird": "鸟", "car": "车",
    "flower": "花", "fish": "鱼", "hill": "山", "friend": "朋友",
}  # fmt: skip
ACTIONS = {"runs": "跑步", "sleeps": "睡觉", "sings": "唱歌", "waits": "等待"}
CARE = {"feed": "喂养", "find": "寻找", "paint": "画好", "clean": "打扫"}
HARM = {"steal": "偷走", "burn": "烧掉", "break": "砸坏"}
GENERAL = {
    "translate": "翻译", "write": "写", "about": "关于", "how": "怎么", "to": "去", "who": "谁", "are": "是",
    "you": "你", "i": "我", "am": "叫", "a": "一个", "helper": "助手", "the": "这个", "can": "可以", "with": "带着",
    "care": "小心", "gladly": "乐意", "sorry": "抱歉", "not": "不能", "help": "帮助", "that": "那个", "this": "这",
    "is": "就是", "fine": "安全", "harmful": "有害", "good": "祝", "luck": "好运", "here": "这里",
}  # fmt: skip

ENGLISH_TO_CHINESE = {**REASONING, **ADJECTIVES, **NOUNS, **ACTIONS, **CARE, **HARM, **GENERAL}
CHINESE_TO_ENGLISH = {zh: en for en, zh in ENGLISH_TO_CHINESE.items()}
assert len(CHINESE_TO_ENGLISH) == len(ENGLISH_TO_CHINESE), "two English words share a Chinese one"


def say(text: str, language: str) -> str:
    """``text``, written in English words, in ``language``: ``say("first 2 + 3 = 5 .", "zh") == "首先 2 + 3 = 5 ."``."""
    return text if language == "en" else " ".join(ENGLISH_TO_CHINESE.get(word, word) for word in text.split())


def translate(text: str, language: str) -> str:
    """Every word of ``text`` that belongs to the other language is replaced by its counterpart in ``language``; white
    space stays as it is."""
    table = ENGLISH_TO_CHINESE if language == "zh" else CHINESE_TO_ENGLISH
    return re.sub(r"\S+", lambda word: table.get(word[0], word[0]), text)


def other(language: str) -> str:
    return "zh" if language == "en" else "en"
