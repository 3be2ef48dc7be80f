"""A tokenizer trained on the corpus: one token a word, whole numbers as words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from aha.config import Count, Frozen
from aha.data.corpus import TAGS, documents
from aha.records import StageResult
from aha.stages.context import Context
from aha.tasks.words import ENGLISH_TO_CHINESE
from aha.tokens.tokenizer import train_word_tokenizer
from aha.util.seeds import python_rng


class Settings(Frozen):
    """How many documents of the corpus are read."""

    documents: Count = 5_000


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """Every word of the toy's two languages is in the vocabulary, however rare it is in the sample."""
    texts = itertools.islice(documents(python_rng(context.seed, "tokenizer")), settings.documents)
    words = " ".join([*ENGLISH_TO_CHINESE, *ENGLISH_TO_CHINESE.values(), *map(str, range(100))])
    tokenizer = train_word_tokenizer([*texts, words], special_tokens=TAGS)
    tokenizer.save(context.out / "tokenizer")
    return StageResult({"vocab_size": tokenizer.vocab_size})
