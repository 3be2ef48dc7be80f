"""Finding a recipe and turning it, with what the command line sets, into a pipeline.

A recipe is a file ``recipes/NAME.py`` with a function of the same name whose arguments are all keywords with defaults::

    def r1_tiny(*, seed: int = 0) -> Pipeline: ...
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import aha
from aha.config import parse_value
from aha.errors import AhaError, SettingError, UsageError, nearest
from aha.pipeline.graph import Pipeline, override


def recipe_folders() -> list[Path]:
    """Where recipes are looked for: ``recipes`` in the current directory, then beside the source checkout."""
    checkout = Path(aha.__file__).resolve().parents[2] / "recipes"
    return [folder for folder in dict.fromkeys((Path.cwd() / "recipes", checkout)) if folder.is_dir()]


def find_recipe(name: str) -> Path:
    """The file of the recipe ``name`` (``-`` may stand for ``_``); a name that ends in ``.py`` is a path itself."""
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"recipe file {name} does not exist")
        return path.resolve()
    known: dict[str, Path] = {}
    for folder in reversed(recipe_folders()):
        known.update({path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")})
    wanted = name.replace("-", "_")
    if wanted not in known:
        raise UsageError(f"no recipe {name!r}: {nearest(wanted, known)} (or give the path of a .py file)")
    return known[wanted]


def load_pipeline(name: str, assignments: Iterable[str]) -> tuple[Pipeline, Pipeline]:
    """The recipe called with the assigned arguments: first as it is, then with the assigned settings too.

    ``seed=3`` sets an argument of the recipe's function, ``r1_zero.steps=40`` a setting of a stage. ``UsageError``
    offers the nearest name of an unknown recipe, argument, stage or setting, and names file and line of an error in the
    recipe itself.
    """
    assignments = list(assignments)
    path = find_recipe(name)
    build = _load_function(path)
    arguments = dict(_parse_argument(build, text) for text in assignments if "." not in text.partition("=")[0])
    with _errors_named(path):
        own = build(**arguments)
    if not isinstance(own, Pipeline):
        raise UsageError(f"{path}: {build.__name__}() returned {type(own).__name__}: a recipe returns a Pipeline")
    for stage in own.stages:
        if stage.run.__module__ == build.__module__:
            raise UsageError(
                f"stage {stage.name!r} runs a function of the recipe file itself, which its process cannot import: "
                "move the function to a module"
            )
    return own, override(own, [text for text in assignments if "." in text.partition("=")[0]])


def _load_function(path: Path) -> Callable[..., Any]:
    module_name = f"aha_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    with _errors_named(path):
        spec.loader.exec_module(module)
    build = getattr(module, path.stem, None)
    if not inspect.isfunction(build):
        raise UsageError(f"{path} has no function {path.stem!r}: a recipe's function has the name of its file")
    return build


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """A ``UsageError`` with file and line for whatever the recipe raises."""
    try:
        yield
    except (AhaError, AssertionError):
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        what = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise UsageError(f"{path}{f', line {line}' if line else ''}: {what}") from error


def _parse_argument(build: Callable[..., Any], assignment: str) -> tuple[str, Any]:
    key, equals, text = assignment.partition("=")
    key = key.strip()
    parameters = inspect.signature(build).parameters
    if not equals:
        raise SettingError(f"--set {assignment}: expected argument=value or stage.key=value")
    if key not in parameters:
        raise SettingError(
            f"--set {assignment}: recipe {build.__name__!r} has no argument {key!r}: {nearest(key, parameters)} "
            "(a setting of a stage is written stage.key=value)"
        )
    hints = typing.get_type_hints(build)
    if key not in hints:
        raise UsageError(
            f"--set {assignment}: argument {key!r} of {inspect.getfile(build)} has no type to read {text!r} as: "
            f"annotate it, for example {key}: int = 0"
        )
    return key, parse_value(hints[key], text, key)
