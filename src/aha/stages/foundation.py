"""A model that comes from outside: a Hugging Face folder of llama, qwen2 or qwen3, with the prompt template it
expects."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from aha.config import Frozen
from aha.errors import CheckpointError
from aha.model.count import count_parameters
from aha.records import StageResult
from aha.stages.context import Context
from aha.stages.models import TEMPLATE_FILE, load_policy
from aha.util.files import write_json_atomic


class Settings(Frozen):
    """``folder`` is copied, so that the run stays whole when the folder goes; ``template`` has one ``{question}``."""

    folder: Path
    template: str


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """Load once, copy, add the template: what cannot be used is named here and not an hour later."""
    if not (settings.folder / "config.json").is_file():
        raise CheckpointError(
            f"{settings.folder} is not a model folder: it has no config.json (aha convert makes one from a GGUF file, "
            "`make models/smollm2` fetches the one that r1_real names by itself)"
        )
    policy = load_policy(settings.folder, template=settings.template)
    model = context.out / "model"
    shutil.copytree(settings.folder, model, dirs_exist_ok=True)
    write_json_atomic(model / TEMPLATE_FILE, {"template": settings.template})
    return StageResult({"parameters": count_parameters(policy.config), "model_type": policy.config.model_type})
