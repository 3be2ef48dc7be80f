"""The block that docs/r1_tiny.md has beside those of every recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path

from aha.model.count import count_parameters
from aha.pipeline.recipe import load_pipeline
from aha.stages.context import Context
from aha.stages.pretrain import model_config
from building.results import Results
from building.table import table


def sizes(results: Results, root: Path) -> str:
    """Parameters of the toy's models and the tokens they are pre-trained on."""
    pipeline = load_pipeline("r1_tiny", [])[0]
    words = next(stage for stage in pipeline.stages if stage.kind == "tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder), name=words.name, seed=pipeline.seed_of(words), run_seed=0)
        vocabulary = words.run(words.settings, {}, context).metrics["vocab_size"]
    rows = []
    for stage in (stage for stage in pipeline.stages if stage.kind == "pretrain"):
        settings = stage.settings.model_dump()
        config = model_config(stage.settings.shape, vocabulary=vocabulary, eos_token_id=None)
        tokens = settings["steps"] * settings["rows"] * settings["row_length"]
        rows.append((f"`{stage.name}`", f"{count_parameters(config):,}", str(vocabulary), f"{tokens:,}"))
    return table(("model", "parameters", "words in the vocabulary", "tokens of pre-training"), rows)
