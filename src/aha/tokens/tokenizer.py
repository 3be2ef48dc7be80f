"""One tokenizer interface over Hugging Face's ``tokenizers``: trained here, or read from any published model folder.

A text and its ids must survive the round trip, so a word that a closed vocabulary lacks is an error, never ``<unk>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from aha.errors import CheckpointError, DataError
from aha.util.files import read_object, write_json_atomic, write_text_atomic

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
_KEPT = ("chat_template.jinja", "chat_template.json", "special_tokens_map.json")


class Tokenizer:
    """Text to ids and back, with the ids that begin and end a text.

    ``begin_ids`` are what the post-processor of a published tokenizer puts before every text, often ``<s>``; one that
    was trained here has none. ``end_token_ids`` has every id that ends a completion: a published model may have
    several.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, *, eos_token: str, pad_token: str, end_tokens: Sequence[str]
    ) -> None:
        self.backend = backend
        self.eos_token, self.pad_token = eos_token, pad_token
        self.eos_id, self.pad_id = self._id(eos_token), self._id(pad_token)
        self.end_token_ids = tuple(dict.fromkeys([self.eos_id, *(self._id(token) for token in end_tokens)]))
        self.begin_ids = _begin_ids(backend)
        self._unknown = _unknown_token(backend)
        self._unknown_id = backend.token_to_id(self._unknown) if self._unknown else None
        self._pieces: dict[int, str] = {}
        # Of the folder it was loaded from, for save(): tokenizer_config.json, and other files as text.
        self.published_config: dict[str, object] = {}
        self.published_files: dict[str, str] = {}

    def _id(self, token: str) -> int:
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the special token {token!r} is not in the tokenizer's {self.vocab_size} tokens")
        return int(token_id)

    @property
    def vocab_size(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, nothing added. ``DataError`` names the words that a closed vocabulary lacks."""
        try:
            encoding = self.backend.encode(text, add_special_tokens=False)
        except TypeError:  # all that the library says of it
            raise DataError(f"{text[:80]!r} has half of a surrogate pair, which is no character") from None
        ids: list[int] = encoding.ids
        if self._unknown_id is not None and self._unknown_id in ids:
            words = (text[a:b] for i, (a, b) in zip(ids, encoding.offsets, strict=True) if i == self._unknown_id)
            unknown = [word for word in words if word != self._unknown]  # a model may have sampled that one itself
        else:
            unknown = []
        if unknown:
            raise DataError(
                f"text has words that this tokenizer does not know: {' '.join(dict.fromkeys(unknown))!r} in "
                f"{text[:80]!r}; it has {self.vocab_size} tokens: train a tokenizer on this text, or reword it"
            )
        return ids

    def encode_from_start(self, text: str) -> list[int]:
        """Ids of a text that nothing precedes: behind ``begin_ids``, unless it is written with them already, as chat
        templates do."""
        ids = self.encode(text)
        return ids if ids[: len(self.begin_ids)] == self.begin_ids else self.begin_ids + ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without padding and end tokens, but with every other special token (tags must stay
        visible)."""
        drop = {self.pad_id, *self.end_token_ids}
        return str(self.backend.decode([i for i in ids if i not in drop], skip_special_tokens=False))

    def token_text(self, token_id: int) -> str:
        """One token as people read it."""
        return str(self.backend.decode([token_id], skip_special_tokens=False))

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """The text that each token adds behind another, with its space: joined they are the text, but for a first
        space, and for characters that several tokens share."""
        for i in {*ids} - self._pieces.keys():
            once, twice = self.decode([i]), self.decode([i, i])
            self._pieces[i] = twice.removeprefix(once)
        return tuple(self._pieces[i] for i in ids)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` so that transformers loads the folder, and
        ``generation_config.json`` with every end token: ``tokenizer_config.json`` has room for one only.

        The rest of a published folder's ``tokenizer_config.json``, and its chat template, are written as they were.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / "tokenizer.json", self.backend.to_str(pretty=False))
        config = self.published_config or {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1 << 30,
        }
        own = {
            "eos_token": self.eos_token,
            "pad_token": None if self.pad_id == self.eos_id else self.pad_token,  # none was published
            "unk_token": None if self._unknown_id is None else self._unknown,
        }
        changed = {name: token for name, token in own.items() if token and _token_text(config.get(name)) != token}
        write_json_atomic(folder / "tokenizer_config.json", {**config, **changed})
        for name, text in self.published_files.items():
            write_text_atomic(folder / name, text)
        ends = {"eos_token_id": list(self.end_token_ids), "pad_token_id": self.pad_id}
        write_json_atomic(folder / "generation_config.json", ends)


def train_word_tokenizer(texts: Iterable[str], *, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """One token a word, words split at white space: the smallest sequence a toy model can learn from."""
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [PAD, EOS, UNK, *special_tokens]
    trainer = trainers.WordLevelTrainer(special_tokens=special, vocab_size=1 << 20, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, eos_token=EOS, pad_token=PAD, end_tokens=())


def train_bpe_tokenizer(texts: Iterable[str], *, vocab_size: int, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Byte-level BPE with numbers split into at most three digits, as DeepSeek-V3's pre-tokenizer does (V3 4.1)."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, eos_token=EOS, pad_token=PAD, end_tokens=())


def _begin_ids(backend: tokenizers.Tokenizer) -> list[int]:
    """What the post-processor puts before a text of one token that no vocabulary needs to have; what it puts behind is
    left: a prompt is to be continued."""
    text, place = backend.encode("", add_special_tokens=False), "TEXT"
    text.pad(1, pad_token=place)
    whole = backend.post_process(text)
    return list(whole.ids[: whole.tokens.index(place)])


def _unknown_token(backend: tokenizers.Tokenizer) -> str | None:
    """What stands for text that a closed vocabulary lacks. Unigram models name it by its id, in their file alone."""
    if isinstance(backend.model, models.Unigram):
        number = json.loads(backend.to_str())["model"].get("unk_id")
        return None if number is None else backend.id_to_token(number)
    return getattr(backend.model, "unk_token", None) or None


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a model folder's tokenizer: ``tokenizer.json``, its config and chat template, and the end tokens of
    ``config.json`` and ``generation_config.json`` (there may be several)."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a model folder: it has no tokenizer.json")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for any malformed file
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    config_path = folder / "tokenizer_config.json"
    config = read_object(config_path) if config_path.is_file() else {}
    begin = _token_text(config.get("bos_token"))
    # Llama's class, which DeepSeek names for V3, R1 and the distilled models, adds it whatever tokenizer.json says (in
    # transformers 4, with which they were published; version 5 reads the file of a byte-level one).
    of_llama = str(config.get("tokenizer_class")).startswith("LlamaTokenizer") and config.get("add_bos_token") is True
    if of_llama and begin and not _begin_ids(backend) and (number := backend.token_to_id(begin)) is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=[begin, "$A"], pair=[begin, "$A", f"{begin}:1", "$B:1"], special_tokens=[(begin, number)]
        )
    ends: list[str] = []
    for name in ("config.json", "generation_config.json"):
        model_config = read_object(folder / name) if (folder / name).is_file() else {}
        value = model_config.get("eos_token_id")
        for token_id in value if isinstance(value, list) else [value]:
            token = backend.id_to_token(token_id) if isinstance(token_id, int) else None
            if token is not None:
                ends.append(token)
    eos = _token_text(config.get("eos_token")) or (ends[0] if ends else None)
    if eos is None:
        raise CheckpointError(f"{folder}: no end token in tokenizer_config.json or config.json; set eos_token")
    pad = _token_text(config.get("pad_token")) or eos
    tokenizer = Tokenizer(backend, eos_token=eos, pad_token=pad, end_tokens=ends)
    tokenizer.published_config = config
    kept = [folder / name for name in _KEPT if (folder / name).is_file()]
    tokenizer.published_files = {path.name: path.read_text("utf-8") for path in kept}
    return tokenizer


