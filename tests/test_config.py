"""Settings: unknown names, values that do not fit, overrides from text, fingerprints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import PositiveInt, model_validator

from aha.config import Frozen, canonical, decisive, fingerprint, override, parse_value
from aha.errors import SettingError
from aha.stages import rl


class Inner(Frozen):
    width: PositiveInt = 8
    heads: int = 2
    size: int = 0

    @model_validator(mode="after")
    def _derive(self) -> Inner:
        if self.size == 0:
            object.__setattr__(self, "size", self.width // self.heads)
        return self


class Outer(Frozen):
    steps: int = 3
    lr: float = 1e-3
    shuffle: bool = True
    name: str = "x"
    scale: Literal["std", "none"] = "std"
    inner: Inner = Inner()
    ends: int | list[int] | None = None
    tasks: tuple[str, ...] = ("chain",)
    weights: dict[str, float] = {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "40", 40),
        ("steps", "1e3", 1000),
        ("lr", "2", 2.0),
        ("shuffle", "false", False),
        ("name", "40", "40"),
        ("scale", "none", "none"),
        ("ends", "none", None),
        ("ends", "[1, 2]", [1, 2]),
        ("ends", "7", 7),
        ("tasks", "a, b", ("a", "b")),
        ("tasks", '["a"]', ("a",)),
        ("weights.accuracy", "0.5", {"accuracy": 0.5}),
        ("inner.width", "12", Inner(width=12)),
    ],
)
def test_override_reads_text_by_the_type_of_the_setting(key: str, text: str, value: Any) -> None:
    before = Outer()
    after = override(before, key, text)
    changed = getattr(after, key.partition(".")[0])
    assert changed == value and type(changed) is type(value)
    assert before == Outer()


def test_override_derives_derived_values_again() -> None:
    assert Inner(width=12).size == 6
    assert override(Outer(), "inner.width", "12").inner.size == 6
    assert override(Outer(inner=Inner(width=8, size=5)), "inner.width", "12").inner.size == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outer(stps=1), "Outer has no setting 'stps': did you mean 'steps'?"),
        (lambda: Outer(inner={"widht": 1}), "Inner has no setting 'widht': did you mean 'width'?"),
        (lambda: Outer.model_validate({"stps": 1}), "did you mean 'steps'?"),
        (lambda: Outer(steps="many"), "Outer.steps: .*given 'many'"),
        (lambda: Inner(width=-1), "Inner.width: .*greater than 0"),
        (lambda: override(Outer(), "stps", "1", owner="r1"), "r1 has no setting 'stps': did you mean 'steps'?"),
        (lambda: override(Outer(), "inner.widht", "1"), "Outer.inner has no setting 'widht': did you mean 'width'?"),
        (lambda: override(Outer(), "inner.width", "0", owner="r1"), r"^r1\.inner\.width: .*greater than 0"),
        (lambda: override(Outer(), "weights.acuracy", "1"), "did you mean 'accuracy'?"),
        (lambda: override(Outer(), "steps.x", "1"), "Outer.steps is 3, which has no setting 'x' inside"),
        (lambda: override(Outer(), "steps", "many"), "Outer.steps=many"),
        (lambda: override(Outer(), "scale", "max"), "Outer.scale=max: .*'std' or 'none'"),
    ],
)
def test_what_cannot_be_is_a_setting_error(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().steps = 4  # type: ignore[misc]


def test_fingerprint_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": (1.5, None), "a": 1})
    assert fingerprint(Outer()) == fingerprint(Outer(steps=3))
    different: list[Any] = [Outer(), Outer(lr=1.0000001e-3), {"a": 1}]
    different += [{"a": "1"}, {"a": True}, [1, 2], [2, 1], math.nan, 0.0]
    assert len({fingerprint(obj) for obj in different}) == len(different)
    assert len(fingerprint(None)) == 16 and int(fingerprint(None), 16) >= 0


def test_a_result_does_not_depend_on_incidental_settings_wherever_they_stand() -> None:
    class Asking(Frozen):
        incidental: ClassVar[frozenset[str]] = frozenset({"at_once"})
        question: str = "q"
        at_once: int = 8

    class Whole(Frozen):
        teacher: Asking | None = Asking()
        steps: int = 3

    assert decisive(Whole()) == {"teacher": {"question": "q"}, "steps": 3}
    assert decisive(Whole(teacher=None)) == {"teacher": None, "steps": 3}
    assert canonical(Whole())["teacher"] == {"question": "q", "at_once": 8}


def test_canonical_form_is_plain_json() -> None:
    class Colour(StrEnum):
        RED = "red"

    @dataclass(frozen=True)
    class Row:
        path: Path
        colours: frozenset[Colour]

    assert canonical(Row(Path("a/b"), frozenset({Colour.RED}))) == {"path": "a/b", "colours": ["red"]}
    with pytest.raises(TypeError, match="no canonical form for object"):
        canonical({"x": object()})


def test_space_around_a_value_is_kept_in_text_alone() -> None:
    assert parse_value(str, "user\n{question}\n", "template") == "user\n{question}\n"
    assert parse_value(int | None, " none ", "seed") is None
    assert parse_value(bool, " true", "rewritten") is True
    assert parse_value(tuple[int, ...], " 1, 2 ", "sizes") == (1, 2)


def test_parse_value_prefers_text_for_text() -> None:
    assert parse_value(str, "none", "x") == "none" and parse_value(str | None, "none", "x") is None


@pytest.mark.parametrize(
    ("key", "text"),
    [("steps", "0"), ("samples", "1"), ("lr", "-1"), ("lr", "nan"), ("max_grad_norm", "-1"), ("minibatches", "0"),
     ("temperature", "0"), ("general_share", "1.5"), ("token_budget", "-3"), ("prompts", "0")],
)  # fmt: skip
def test_a_number_that_would_train_on_nonsense_is_refused(key: str, text: str) -> None:
    with pytest.raises(SettingError, match=f"{key}.*(greater|less|finite|needs 2)"):
        override(rl.Settings(), key, text, owner="r1_zero")


def test_stages_of_the_length_cap_that_do_not_begin_at_step_0_are_refused_before_anything_runs() -> None:
    with pytest.raises(SettingError, match=r"begin at steps \[5\]: the first at 0"):
        override(rl.Settings(), "length_stages", "[[5, 10]]", owner="r1_zero")
