"""Tests in one process, the program that they call in another: only plain data crosses, so no verdict can be forged.

In the process of the tests the program can return an object that equals everything, replace ``isinstance``, read the
expected values from a caller's frame, or leave with exit code 0. Here it is a server of its functions: it sees the
arguments of a call, and what it answers is rebuilt from plain types before anything is asserted. An object that is not
plain data stays where it is and is known by a number: it can be called, its attributes read and set, its length, truth
and text asked for. It is equal to itself alone, and no other operator reaches it: what may answer a comparison, or give
other items each time, would pass for any list.
"""

from __future__ import annotations

import builtins
import collections
import datetime
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
_DICTS: dict[str, type[dict[Any, Any]]] = {
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "dict": dict,
}
_WORDS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {  # sent as a word
    "int": (int, hex, lambda word: int(word, 16)),
    "complex": (complex, str, complex),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "bytearray": (bytearray, bytearray.hex, bytearray.fromhex),
    "Decimal": (Decimal, str, Decimal),
    "Fraction": (Fraction, str, lambda word: Fraction(*map(int, word.split("/")))),  # 1e999999999 is no whole number
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "timedelta": (
        datetime.timedelta,
        lambda value: f"{value.days} {value.seconds} {value.microseconds}",
        lambda word: datetime.timedelta(*map(int, word.split())),
    ),
}


class Named(tuple[Any, ...]):
    """The items of a named tuple, which are its attributes as well: ``Named(["x", "y"], [1, 2]).y`` is 2."""

    def __new__(cls, fields: Collection[str], items: Iterable[Any]) -> Named:
        if not all(field.isidentifier() and not field.startswith("_") for field in fields):
            raise ValueError(f"no fields of a named tuple: {fields}")
        self = super().__new__(cls, items)
        vars(self).update(zip(fields, self, strict=True))
        return self

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(vars(self))


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
    for tag, kind in _DICTS.items():
        if isinstance(value, kind):
            return {tag: [[encode(key, refer), encode(item, refer)] for key, item in value.items()]}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"named": [list(value._fields), [encode(item, refer) for item in value]]}
    if isinstance(value, type) and value in vars(builtins).values():
        return {"type": value.__name__}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    for tag, (kind, write, _) in _WORDS.items():
        if isinstance(value, kind):
            return {tag: write(value)}
    for tag, (kind, _) in _LISTS.items():
        if isinstance(value, kind):
            items = list(itertools.islice(iter(value), MAX_ITEMS + 1))
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
    if tag in _DICTS:
        return _DICTS[tag]({decode(key, find): decode(item, find) for key, item in body})
    if tag == "named":
        return Named(body[0], [decode(item, find) for item in body[1]])
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


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, arguments, named: target(*arguments, **named),
    "attribute": getattr,
    "set attribute": setattr,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "is instance": lambda kind, value: isinstance(value, kind),
}


def serve(namespace: Mapping[str, Any], receive: Callable[[], bytes | None], send: Callable[[bytes], None]) -> None:
    """Answers calls on what ``namespace`` holds until there are no more."""
    known: list[Any] = []
    numbers: dict[int, int] = {}  # by id: what is known stays alive, so no other object gets it

    def refer(value: Any) -> int:
        number = numbers.setdefault(id(value), len(known))
        if number == len(known):
            known.append(value)
        return number

    def perform(operation: str, *operands: Any) -> Any:
        if operation == "names":
            return [name for name in operands[0] if name in namespace]
        if operation == "get":
            if operands[0] not in namespace:
                raise NameError(f"name {operands[0]!r} is not defined")
            return namespace[operands[0]]
        return _OPERATIONS[operation](*(decode(operand, known.__getitem__) for operand in operands))

    while (message := receive()) is not None:
        try:
            answer = {"value": encode(perform(*json.loads(message)), refer)}
        except BaseException as error:  # SystemExit too: a program may not end itself in the middle of a test
            answer = {"error": describe(error)}
        send(json.dumps(answer).encode())


def describe(error: BaseException) -> tuple[list[str], str]:
    """Its type and those above it, each as ``json.decoder.JSONDecodeError``, and what it says; a program's own type may
    fail to say anything."""
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    return [f"{kind.__module__}.{kind.__name__}"[-100:] for kind in type(error).__mro__], text


# --- in the process of the tests -----------------------------------------------------------------------------------


class ProgramRaised(Exception):
    """The program raised something that is no ``Exception``: ``ProgramRaised("SystemExit: 0")``."""


class _Said:
    """An exception whose own way to be made and shown is not needed."""

    args: tuple[str]

    def __init__(self, text: str) -> None:
        self.args = (text,)

    def __str__(self) -> str:
        return self.args[0]


def _build_error(names: list[str], text: str) -> Exception:
    """What ``describe`` was given: of its own type where that is built in and needs no more than the text, else of its
    own name below the nearest type that is built in or of a module of the standard library that is loaded here."""
    own = names[0].rpartition(".")[2]
    for place, kind in enumerate(map(_find_error, names)):
        if kind is None:
            continue
        said: type[Exception] = type(own, (_Said, kind), {})
        for make in (said,) if place else (kind, said):
            try:
                error = make(text)
            except Exception:  # a group of exceptions is not made of a text
                continue
            if str(error) == text:
                return error
    return ProgramRaised(f"{own}: {text}" if text else own)


def _find_error(name: str) -> type[Exception] | None:
    module, _, word = name.rpartition(".")
    if module not in sys.modules or module.partition(".")[0] not in sys.stdlib_module_names:
        return None
    kind = vars(sys.modules[module]).get(word)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


class Program:
    """The other side, asked by ``exchange(message) -> answer``."""

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange
        self._objects: dict[int, Remote] = {}

    def ask(self, operation: str, *operands: Any) -> Any:
        """What the operation gives; raises what it raised."""
        message = json.dumps([operation, *operands]).encode()
        return self.read(self._exchange(message))

    def read(self, answer: bytes) -> Any:
        data = json.loads(answer)
        if "error" in data:
            names, text = data["error"]
            raise _build_error(list(map(str, names)), str(text))
        return decode(data["value"], self._find)

    def _find(self, number: int) -> Remote:
        return self._objects.setdefault(number, Remote(self, number))

    def encode(self, value: Any) -> Any:
        return encode(value, _number_of)


def _asks(operation: str) -> Callable[..., Any]:
    def ask(self: Remote, *operands: Any) -> Any:
        program: Program = object.__getattribute__(self, "_program")
        return program.ask(operation, *map(program.encode, (self, *operands)))

    return ask


class Remote:
    """Something of the program's that is not plain data; one object for each of the program's."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _asks("call")(self, list(arguments), named)

    __getattr__, __setattr__ = _asks("attribute"), _asks("set attribute")
    __len__, __bool__, __str__, __repr__ = map(_asks, ("len", "bool", "str", "repr"))
    __instancecheck__ = _asks("is instance")


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
    compiled = [compile(text, "tests", "exec", dont_inherit=True) for text in (setup, *tests)]
    used = sorted({name for code in compiled for name in _names_in(code)})
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
    exec(compile(setup, "setup", "exec", dont_inherit=True), namespace)
    if entry_point:
        namespace["candidate"] = namespace[entry_point] = program.ask("get", entry_point)
    return namespace


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
