"""The two languages are a one-to-one map between words."""

from __future__ import annotations

import re

from aha.tasks import words
from aha.tasks.words import CHINESE_TO_ENGLISH, ENGLISH_TO_CHINESE, LANGUAGES, other, say, translate

TEXT = "first 2 + 3 = 5 . check the big cat . <answer> 5 </answer>"


def test_no_word_stands_in_two_tables() -> None:
    tables = [v for k, v in vars(words).items() if k.isupper() and isinstance(v, dict) and "_" not in k]
    assert sum(map(len, tables)) == len(ENGLISH_TO_CHINESE) == len(CHINESE_TO_ENGLISH)


def test_words_are_of_one_script_and_one_token() -> None:
    for english, chinese in ENGLISH_TO_CHINESE.items():
        assert re.fullmatch("[a-z]+", english)
        assert re.fullmatch("[\u4e00-\u9fff]+", chinese)


def test_translation_there_and_back_is_the_text() -> None:
    assert translate(say(TEXT, "zh"), "en") == TEXT
    assert say(TEXT, "en") == TEXT
    assert not re.search("[a-z]", re.sub("<[^>]*>", "", say(TEXT, "zh")))


def test_numerals_and_white_space_are_shared() -> None:
    assert say("first 2 + 3 = 5 .", "zh") == "首先 2 + 3 = 5 ."
    assert translate("first  2\n+ 3\t首先 ", "zh") == "首先  2\n+ 3\t首先 "


def test_translation_into_its_own_language_changes_nothing() -> None:
    for language in LANGUAGES:
        assert translate(say(TEXT, language), language) == say(TEXT, language)
        assert other(other(language)) == language != other(language)
