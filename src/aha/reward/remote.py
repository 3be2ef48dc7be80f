"""Tests in one process, the program that they call in another: only plain data crosses, so no verdict can be forged.

In the process of the tests the program can return an object that equals everything, replace ``isinstance``, read the
expected values from a caller's frame, or leave with exit code 0. Here it is a server of its functions: it sees the
arguments of a call, and what it answers is rebuilt from plain types before anything is asserted. An object that is not
plain data stays where it is and is known by a number: it can be called, and its attributes read and set.
"""

from __future__ import annotations

import builtins
import collections
import itertools
import json
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_ITEMS = 100_000  # read from an iterator
_EXACT_IN_JSON = 2**53
_LISTS: dict[str, tuple[type, Callable[[Iterable[Any]], Any]]] = {  # sent as a list of their items
    "tuple": (tuple, tuple),
    "set": (set, set),
    "frozenset": (frozenset, frozenset),
    "deque": (collections.deque, collections.deque),
    "iterator": (Iterator, iter),
    "keys": (collections.abc.KeysView, lambda items: dict.fromkeys(items).keys()),
    "values": (collections.abc.ValuesView, lambda items: dict(enumerate(items)).values()),
    "items": (collections.abc.ItemsView, lambda items: dict(items).items()),
}
_WORDS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {  # sent as a word
    "int": (int, hex, lambda word: int(word, 16)),
    "complex": (complex, str, complex),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "bytearray": (bytearray, bytearray.hex, bytearray.fromhex),
    "Decimal": (Decimal, str, Decimal),
    "Fraction": (Fraction, str, lambda word: Fraction(*map(int, word.split("/")))),  # 1e999999999 is no whole number
}


def encode(value: Any, refer: Callable[[Any], int]) -> Any:
    """``value`` for JSON. A subclass is sent as the plain type below it; ``refer`` gives a number for all else."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and -_EXACT_IN_JSON < value < _EXACT_IN_JSON:
        return int(value)
    if isinstance(value, list):
        return [encode(item, refer) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(key, refer), encode(item, refer)] for key, item in value.items()]}
    if isinstance(value, type) and value in vars(builtins).values():
        return {"type": value.__name__}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    for tag, (kind, write, _) in _WORDS.items():
        if isinstance(value, kind):
            return {tag: write(value)}
    for tag, (kind, _) in _LISTS.items():
        if isinstance(value, kind):
            items = list(itertools.islice(iter(value), MAX_ITEMS + 1))  # type: ignore[call-overload]
            if len(items) > MAX_ITEMS:
                raise ValueError(f"more than {MAX_ITEMS} items")
            return {tag: [encode(item, refer) for item in items]}
    return {"ref": refer(value)}


def decode(data: Any, find: Callable[[int], Any]) -> Any:
    """The plain value, or what ``find`` has for a number. ``ValueError`` or ``TypeError`` where ``encode`` cannot have
    written it."""
    if isinstance(data, list):
        return [decode(item, find) for item in data]
    if not isinstance(data, dict):
        return data
    ((tag, body),) = data.items()
    if tag == "dict":
        return {decode(key, find): decode(item, find) for key, item in body}
    if tag == "range":
        return range(*body)
    if tag == "type":
        return _builtin_type(body)
    if tag == "ref":
        return find(int(body))
    if tag in _WORDS:
        return _WORDS[tag][2](body)
    if tag in _LISTS:
        return _LISTS[tag][1]([decode(item, find) for item in body])
    raise ValueError(f"unknown tag {tag!r}")


def _builtin_type(name: Any) -> type:
    kind = getattr(builtins, str(name), None)
    if not isinstance(kind, type):
        raise ValueError(f"{name!r} is no built-in type")
    return kind


# --- in the process of the program ---------------------------------------------------------------------------------


def serve(namespace: Mapping[str, Any], receive: Callable[[], bytes | None], send: Callable[[bytes], None]) -> None:
    """Answers calls on what ``namespace`` holds until there are no more."""
    known: list[Any] = []

    def refer(value: Any) -> int:
        known.append(value)
        return len(known) - 1

    def perform(operation: str, *operands: Any) -> Any:
        if operation == "names":
            return [name for name in operands[0] if name in namespace]
        if operation == "get":
            if operands[0] not in namespace:
                raise NameError(f"name {operands[0]!r} is not defined")
            return namespace[operands[0]]
        target, *rest = (decode(operand, known.__getitem__) for operand in operands)
        if operation == "call":
            return target(*rest[0], **rest[1])
        return getattr(target, *rest) if operation == "attribute" else setattr(target, *rest)

    while (message := receive()) is not None:
        try:
            answer = {"value": encode(perform(*json.loads(message)), refer)}
        except BaseException as error:  # SystemExit too: a program may not end itself in the middle of a test
            answer = {"error": describe(error)}
        send(json.dumps(answer).encode())


def describe(error: BaseException) -> list[str]:
    """Its type's name and what it says; a program's own type may fail to say anything."""
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    return [type(error).__name__[:100], text]


# --- in the process of the tests -----------------------------------------------------------------------------------


class ProgramRaised(Exception):
    """The program raised something that is no built-in exception: ``ProgramRaised("Unsolvable: no path")``."""


class Program:
    """The other side, asked by ``exchange(message) -> answer``."""

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange

    def ask(self, operation: str, *operands: Any) -> Any:
        """What the operation gives; raises what it raised, where that is a built-in exception."""
        message = json.dumps([operation, *operands]).encode()
        return self.read(self._exchange(message))

    def read(self, answer: bytes) -> Any:
        data = json.loads(answer)
        if "error" in data:
            name, text = data["error"]
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    raised = kind(text)
                except TypeError:  # UnicodeDecodeError and its kin want more
                    raised = ProgramRaised(f"{name}: {text}")
                raise raised
            raise ProgramRaised(f"{name}: {text}" if text else str(name))
        return decode(data["value"], lambda number: Remote(self, number))

    def encode(self, value: Any) -> Any:
        return encode(value, _number_of)


class Remote:
    """Something of the program's that is not plain data. It equals itself alone."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        program: Program = object.__getattribute__(self, "_program")
        words = [program.encode(value) for value in (self, list(arguments), named)]
        return program.ask("call", *words)

    def __getattr__(self, name: str) -> Any:
        program: Program = object.__getattribute__(self, "_program")
        return program.ask("attribute", program.encode(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        program: Program = object.__getattribute__(self, "_program")
        program.ask("set", program.encode(self), name, program.encode(value))


def _number_of(value: Any) -> int:
    if not isinstance(value, Remote):
        raise TypeError(f"a test passes a {type(value).__name__} to the program: only plain data can be passed")
    number: int = object.__getattribute__(value, "_number")
    return number


def build_namespace(
    program: Program, *, setup: str, tests: Collection[str], entry_point: str, exports: Collection[str] | None
) -> dict[str, Any]:
    """What the tests see: what ``setup`` defines, and of the program its entry point (as ``candidate`` too), or without
    one the names in ``exports``, or where that is ``None`` every name that they use. Then built-ins and modules of the
    standard library are the real ones, whatever the program calls by their names."""
    namespace: dict[str, Any] = {"__name__": "tests"}
    used = sorted({name for text in (setup, *tests) for name in _names_in(compile(text, "tests", "exec"))})
    for name in used:
        if name in sys.stdlib_module_names:
            namespace[name] = __import__(name)
    if not entry_point:
        wanted = [
            name
            for name in used
            if (name in exports if exports is not None else not hasattr(builtins, name) and name not in namespace)
        ]
        for name in program.ask("names", wanted):
            if name in wanted:
                namespace[name] = program.ask("get", name)
    exec(compile(setup, "setup", "exec"), namespace)
    if entry_point:
        namespace["candidate"] = namespace[entry_point] = program.ask("get", entry_point)
    return namespace


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
