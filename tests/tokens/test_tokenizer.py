"""Text survives the way to ids and back, on its own and through transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from aha.errors import CheckpointError, DataError
from aha.stages.models import save_policy
from aha.testing import byte_tokenizer, tiny_policy, word_tokenizer
from aha.tokens.tokenizer import EOS, PAD, load_tokenizer, train_bpe_tokenizer, train_word_tokenizer
from aha.util.files import read_json, write_json_atomic

TEXT = "User : compute 12 + 5 - 3 ? Assistant : <think> first 12 + 5 = 17 . </think> <answer> 14 </answer>"
UNRULY = ["", " ", "12345 + 6", "naïve 大猫 🙂\n\ttabs", "a\x00b", "<think>x</think>", "  two  spaces  ", "１２"]


def test_words_survive_the_round_trip_and_are_one_token_each() -> None:
    tokenizer = word_tokenizer()
    ids = tokenizer.encode(TEXT)
    assert len(ids) == len(TEXT.split())
    assert tokenizer.decode(ids) == TEXT
    assert [tokenizer.token_text(i) for i in ids] == TEXT.split()


def test_a_tag_is_a_token_even_without_spaces() -> None:
    tokenizer = word_tokenizer()
    assert tokenizer.encode("<think>12</think>") == tokenizer.encode("<think> 12 </think>")


@pytest.mark.parametrize("text", UNRULY)
def test_bytes_survive_the_round_trip(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())


def test_bpe_merges_what_is_frequent_but_never_over_three_digits() -> None:
    tokenizer = train_bpe_tokenizer(["2024 2024 cats cats cats 2024"] * 50, vocab_size=300)
    assert tokenizer.decode(tokenizer.encode("2024 cats 大")) == "2024 cats 大"
    assert [tokenizer.token_text(i) for i in tokenizer.encode("2024")] == ["202", "4"]
    assert len(tokenizer.encode(" cats")) == 1


def test_an_unknown_word_is_named() -> None:
    tokenizer = train_word_tokenizer(["one two"])
    with pytest.raises(DataError, match="three four"):
        tokenizer.encode("one three two four three")
    sampled = "one <unk> two"  # a model may have said it itself
    assert tokenizer.decode(tokenizer.encode(sampled)) == sampled


def test_the_same_texts_give_the_same_ids() -> None:
    assert word_tokenizer().backend.get_vocab() == word_tokenizer().backend.get_vocab()


def test_decoding_drops_padding_and_ends_but_keeps_tags_and_the_unknown_word() -> None:
    tokenizer = word_tokenizer()
    unknown = tokenizer.backend.token_to_id("<unk>")
    ids = [tokenizer.pad_id, *tokenizer.encode("<think> 1"), unknown, tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(ids) == "<think> 1 <unk>"


@pytest.mark.parametrize("make", [word_tokenizer, byte_tokenizer])
def test_transformers_reads_what_is_saved(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    tokenizer.save(tmp_path)
    theirs, again = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    assert theirs(TEXT, add_special_tokens=False)["input_ids"] == tokenizer.encode(TEXT) == again.encode(TEXT)
    assert (theirs.eos_token, theirs.pad_token) == (EOS, PAD)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    assert theirs.decode(tokenizer.encode(TEXT)) == tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert again.end_token_ids == (tokenizer.eos_id,)


def test_transformers_reads_the_tokenizer_of_a_whole_model_folder(tmp_path: Path) -> None:
    """As README and the folder's card say: not by AutoTokenizer, which gives a qwen2 model Qwen's."""
    policy = tiny_policy(tokenizer=word_tokenizer())
    save_policy(policy, tmp_path)
    assert read_json(tmp_path / "config.json")["model_type"] == "qwen2"
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == policy.tokenizer.encode(TEXT)


def test_every_end_token_is_found_and_kept(tmp_path: Path) -> None:
    word_tokenizer().save(tmp_path / "a")
    tokenizer = load_tokenizer(tmp_path / "a")
    first, second = (tokenizer.backend.token_to_id(word) for word in ("ok", "yes"))
    write_json_atomic(tmp_path / "a" / "config.json", {"eos_token_id": first})
    write_json_atomic(tmp_path / "a" / "generation_config.json", {"eos_token_id": [second, first]})
    several = load_tokenizer(tmp_path / "a")
    assert several.eos_id == tokenizer.eos_id
    assert set(several.end_token_ids) == {tokenizer.eos_id, first, second}
    assert several.decode(several.encode("1 ok 2 yes")) == "1 2"
    several.save(tmp_path / "b")
    assert load_tokenizer(tmp_path / "b").end_token_ids == several.end_token_ids


def test_the_end_token_may_stand_in_the_models_config_alone(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(CheckpointError, match="no end token"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(DataError, match="config.json: expected an object, found list"):
        load_tokenizer(tmp_path)
    write_json_atomic(tmp_path / "config.json", {"eos_token_id": tokenizer.eos_id})
    assert load_tokenizer(tmp_path).end_token_ids == (tokenizer.eos_id,)


def test_published_special_tokens_may_be_objects_and_padding_may_be_missing(tmp_path: Path) -> None:
    word_tokenizer().save(tmp_path)
    write_json_atomic(tmp_path / "tokenizer_config.json", {"eos_token": {"content": "ok", "special": True}})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos_token == tokenizer.pad_token == "ok"


@pytest.mark.parametrize("inside", [False, True])
def test_a_published_folder_keeps_its_chat_template_and_settings(inside: bool, tmp_path: Path) -> None:
    source, again = tmp_path / "published", tmp_path / "again"
    backend = byte_tokenizer().backend
    backend.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    published = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token=AddedToken("<|im_end|>", special=True, normalized=False),
        additional_special_tokens=["<|im_start|>"],
        add_bos_token=True,
        model_max_length=8192,
        padding_side="left",
        chat_template="{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}",
    )
    published.save_pretrained(source)
    if inside:  # where older versions of transformers write it
        template = source / "chat_template.jinja"
        config = {**read_json(source / "tokenizer_config.json"), "chat_template": template.read_text("utf-8")}
        write_json_atomic(source / "tokenizer_config.json", config)
        template.unlink()
        write_json_atomic(source / "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "<|im_end|>"})
    load_tokenizer(source).save(tmp_path / "between")
    load_tokenizer(tmp_path / "between").save(again)
    before, after = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(again)
    asked = [{"role": "user", "content": "naïve 大猫"}]
    assert before.chat_template == after.chat_template is not None
    assert before.apply_chat_template(asked, tokenize=False) == after.apply_chat_template(asked, tokenize=False)
    for text in UNRULY:
        assert before(text)["input_ids"] == after(text)["input_ids"]
    assert before.special_tokens_map == after.special_tokens_map and before.pad_token is after.pad_token is None
    assert before.all_special_ids == after.all_special_ids
    assert (after.model_max_length, after.padding_side) == (8192, "left")
    assert read_json(again / "tokenizer_config.json") == read_json(source / "tokenizer_config.json")


@pytest.mark.parametrize(("changes", "begins"), [
    ({}, True), ({"add_bos_token": False}, False), ({"tokenizer_class": "PreTrainedTokenizerFast"}, False),
])
def test_a_llama_tokenizer_begins_texts_though_its_file_does_not(
    changes: dict[str, object], begins: bool, tmp_path: Path
) -> None:
    """As DeepSeek publishes V3, R1 and the distilled models: the class adds the token that tokenizer.json does not."""
    tokenizer = byte_tokenizer()
    tokenizer.backend.add_special_tokens(["<s>"])
    tokenizer.save(tmp_path)
    config = {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "bos_token": "<s>"}
    write_json_atomic(tmp_path / "tokenizer_config.json", {**config, "eos_token": EOS, **changes})
    loaded = load_tokenizer(tmp_path)
    first = loaded.begin_ids
    assert first == ([loaded.backend.token_to_id("<s>")] if begins else [])
    assert loaded.encode_from_start("naïve") == first + loaded.encode("naïve")
    assert loaded.encode_from_start("<s>naïve") == loaded.encode("<s>naïve")
    loaded.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").begin_ids == first
    assert AutoTokenizer.from_pretrained(tmp_path / "again")("naïve")["input_ids"] == first + loaded.encode("naïve")


def test_what_a_unigram_model_does_not_know_is_named(tmp_path: Path) -> None:
    """Its file names the token by an id."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0), ("b", -1.0)]
    Tokenizer(Unigram(pieces, unk_id=0)).save(str(tmp_path / "tokenizer.json"))
    write_json_atomic(tmp_path / "tokenizer_config.json", {"eos_token": "</s>"})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("abba") == [2, 3, 3, 2]
    with pytest.raises(DataError, match="does not know: 'c'"):
        tokenizer.encode("abc")


def test_the_name_of_the_unknown_word_is_kept(tmp_path: Path) -> None:
    word_tokenizer().save(tmp_path)
    content = read_json(tmp_path / "tokenizer.json")
    text = json.dumps(content).replace("<unk>", "[UNK]")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    load_tokenizer(tmp_path).save(tmp_path / "again")
    assert read_json(tmp_path / "again" / "tokenizer_config.json")["unk_token"] == "[UNK]"
    with pytest.raises(DataError):
        load_tokenizer(tmp_path / "again").encode("nonsense")


def test_padding_and_truncation_of_a_published_file_are_switched_off(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.backend.enable_truncation(2)
    tokenizer.backend.enable_padding(length=9)
    tokenizer.save(tmp_path)
    assert len(load_tokenizer(tmp_path).encode("1 2 3")) == 3


def test_a_closed_vocabulary_may_lack_an_unknown_word(tmp_path: Path) -> None:
    backend = Tokenizer(WordLevel({"<s>": 0, "<eos>": 1, "cat": 2}))
    backend.post_processor = TemplateProcessing(single="<s> $A <eos>", special_tokens=[("<s>", 0), ("<eos>", 1)])
    backend.save(str(tmp_path / "tokenizer.json"))
    write_json_atomic(tmp_path / "tokenizer_config.json", {"eos_token": "<eos>"})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("cat") == [2] and tokenizer.encode_from_start("cat") == [0, 2]


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    word_tokenizer().save(tmp_path)
    write_json_atomic(tmp_path / "tokenizer_config.json", {"eos_token": "<nowhere>"})
    with pytest.raises(CheckpointError, match="<nowhere>"):
        load_tokenizer(tmp_path)
