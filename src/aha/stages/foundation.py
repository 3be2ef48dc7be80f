"""A model that comes from outside: a Hugging Face folder of llama, qwen2 or qwen3, with the prompt template it
expects; or a stage of another run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from aha.config import Frozen
from aha.errors import CheckpointError
from aha.model.config_file import model_folder
from aha.model.count import count_parameters
from aha.records import StageResult
from aha.stages.context import Context
from aha.stages.models import TEMPLATE_FILE, load_policy
from aha.util.files import write_json_atomic


class Settings(Frozen):
    """``folder`` is copied, so that the run stays whole when the folder goes. ``template`` has one ``{question}``; a
    model that was made here has its own, and needs none."""

    folder: Path
    template: str | None = None


def run(settings: Settings, inputs: Mapping[str, Path], context: Context) -> StageResult:
    """Load once, copy, add the template: what cannot be used is named here and not an hour later."""
    try:
        folder = model_folder(settings.folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} (aha convert makes one from a GGUF file, `make models/smollm2` fetches the one that r1_real "
            "names by itself)"
        ) from None
    policy = load_policy(folder, template=settings.template)
    model = context.out / "model"
    shutil.copytree(folder, model, dirs_exist_ok=True)
    write_json_atomic(model / TEMPLATE_FILE, {"template": policy.renderer.template})
    return StageResult({"parameters": count_parameters(policy.config), "model_type": policy.config.model_type})
