"""Frozen typed settings: an unknown key is an error that offers the nearest name, and every value has a fingerprint.

``class Settings(Frozen): steps: int = 900`` is all that a stage declares. ``override(settings, "steps", "40")`` is what
``--set stage.steps=40`` does. No torch here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from aha.errors import SettingError, nearest

SettingsT = TypeVar("SettingsT", bound="Frozen")

# What a number of a setting may be. A rate below 0 climbs instead of descending, and no other check would tell.
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
TopP = Annotated[float, Field(gt=0, le=1)]  # of nothing no token can be drawn


class Frozen(BaseModel):
    """Base of every settings class: immutable; unknown or impossible values are ``SettingError``. ``incidental`` names
    those that a result does not depend on: how fast it is reached, what it may cost."""

    incidental: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    def __init__(self, **values: Any) -> None:
        cls = type(self)
        for name in values:
            if name not in cls.model_fields:
                raise SettingError(f"{cls.__name__} has no setting {name!r}: {nearest(name, cls.model_fields)}")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingError(_explain(cls.__name__, error)) from None


def override(settings: SettingsT, key: str, text: str, *, owner: str | None = None) -> SettingsT:
    """A copy of ``settings`` with the (possibly dotted) ``key`` set to the value that ``text`` spells.

    ``text`` is read by the type of the setting: ``40``, ``1e-3``, ``true``, ``none``, ``a,b`` or JSON for lists and
    mappings. Only what was set before is passed on, so values that a class derives from others are derived again.
    Raises ``SettingError`` for an unknown name (the nearest one is offered) or a value that does not fit; ``owner`` is
    the name that the error gives the settings.
    """
    return typing.cast(SettingsT, _replace(settings, key.split("."), text, path=owner or type(settings).__name__))


def parse_value(annotation: Any, text: str, where: str) -> Any:
    """The value of type ``annotation`` that command-line ``text`` spells; ``where`` names the setting in the error.

    A string is kept as it is, with the space around it: the end of a prompt template matters.
    """
    spelled = text.strip()
    if spelled.lower() in ("none", "null") and _allows_none(annotation):
        return None
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    candidates: list[Any] = [text, spelled]
    try:
        candidates.append(json.loads(spelled))
    except ValueError:
        candidates.append([part.strip() for part in spelled.split(",")])
    first_error: ValidationError | None = None
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            first_error = first_error or error
    assert first_error is not None
    raise SettingError(f"{where}={text}: {first_error.errors()[0]['msg']}")


def canonical(obj: Any) -> Any:
    """``obj`` as plain JSON values with one spelling each: settings, dataclasses, mappings, sequences, paths, enums."""
    if isinstance(obj, BaseModel):
        return {name: canonical(getattr(obj, name)) for name in type(obj).model_fields}
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: canonical(getattr(obj, field.name)) for field in dataclasses.fields(obj)}
    if isinstance(obj, Enum):
        return canonical(obj.value)
    if isinstance(obj, Mapping):
        return {str(key): canonical(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [canonical(value) for value in obj]
    if isinstance(obj, set | frozenset):
        return sorted((canonical(value) for value in obj), key=json.dumps)
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, float) and not math.isfinite(obj):
        return repr(obj)
    if obj is None or isinstance(obj, str | int | float | bool):
        return obj
    raise TypeError(f"no canonical form for {type(obj).__name__}: {obj!r}")


def decisive(settings: Frozen) -> dict[str, Any]:
    """``canonical`` of settings, and of settings in them, without the ``incidental`` ones: what a result depends on."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields if name not in settings.incidental}
    return {name: decisive(value) if isinstance(value, Frozen) else canonical(value) for name, value in values.items()}


def fingerprint(obj: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of the canonical JSON of ``obj``; the order of keys does not matter."""
    text = json.dumps(canonical(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _replace(current: Any, path_left: list[str], text: str, *, path: str) -> Any:
    name, rest = path_left[0], path_left[1:]
    if isinstance(current, Frozen):
        fields = type(current).model_fields
        if name not in fields:
            raise SettingError(f"{path} has no setting {name!r}: {nearest(name, fields)}")
        if rest:
            value = _replace(getattr(current, name), rest, text, path=f"{path}.{name}")
        else:
            value = parse_value(fields[name].annotation, text, f"{path}.{name}")
        kept = {set_name: getattr(current, set_name) for set_name in current.model_fields_set}
        try:
            return type(current)(**{**kept, name: value})
        except SettingError as error:  # which names the class
            said = re.sub(rf"\b{type(current).__name__}(?=[.:] ?)", lambda _: path, str(error))
            raise SettingError(said) from None
    if isinstance(current, Mapping):
        if name not in current:
            raise SettingError(f"{path} has no entry {name!r}: {nearest(name, map(str, current))}")
        old = current[name]
        where = f"{path}.{name}"
        value = _replace(old, rest, text, path=where) if rest else parse_value(type(old), text, where)
        return {**current, name: value}
    raise SettingError(f"{path} is {current!r}, which has no setting {name!r} inside")


def _allows_none(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return any(_allows_none(part) for part in typing.get_args(annotation))
    return annotation is type(None) or annotation is None


def _explain(owner: str, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        given = "" if problem["type"] == "missing" or not name else f" (given {problem['input']!r})"
        lines.append(f"{owner}{'.' if name else ''}{name}: {problem['msg'].removeprefix('Value error, ')}{given}")
    return "; ".join(lines)
