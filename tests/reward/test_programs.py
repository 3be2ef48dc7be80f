"""Verdicts on programs: what a response would run, how outputs are compared, and what no program can forge."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from aha.errors import DataError, SandboxError, SandboxRefused
from aha.records import Problem, Status, Verdict
from aha.reward import programs, remote, sandbox
from aha.reward.programs import extract_program, find_difference, humaneval_problem, judge_programs, mbpp_problem
from aha.reward.response import Response, read_response
from aha.reward.rubric import Judge
from aha.reward.sandbox import Layer, Limits, Outcome, Result, Sandbox, find_layers

MISSING = "; ".join(f"{layer.name}: {layer.missing}" for layer in find_layers() if layer.missing)
needs_all = pytest.mark.skipif(bool(MISSING), reason=f"a layer of the sandbox is missing here ({MISSING})")
LIMITS = Limits(cpu_seconds=2, wall_seconds=5)


def problem(tests: Sequence[Any], **meta: Any) -> Problem:
    return Problem("p", "Write f.", "", "code", meta={"tests": list(tests), **meta})


SQUARES = problem(["assert f(2) == 4", "assert f(-3) == 9", "assert f(0) == 0"])
SUMS = problem([{"input": "1 2\n", "output": "3\n"}, {"input": "4 5", "output": "9"}, {"input": "0 0", "output": "0"}])


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as one:
        yield one


def judge(box: Sandbox, asked: Problem, source: str, **options: Any) -> Verdict:
    response = f"```python\n{textwrap.dedent(source)}\n```"
    return programs.judge_program(box, asked, response, **{"limits": LIMITS, **options})


# --- what a response would run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("```py\na\n```\nthen\n```Python3\nb\n```\n", "b\n"),
        ("```python\na\n```\nprints\n```text\n7\n```", "a\n"),
        ("```\na\n```\n```\nb\n```", "b\n"),
        (
            "<think> ```python\nwrong\n``` </think> the answer: ```python\nno fence\n",
            " the answer: ```python\nno fence\n",
        ),
        ("<think>\n```python\nwrong\n```\n</think>\n```python\nright\n```", "right\n"),
        ("<think> so </think> <answer>\n```python\nright\n```\n</answer>", "right\n"),
        ("<think> so </think> <answer> print(1) </answer>", "print(1)"),
        ("    return x", "    return x"),
        ("- so:\n  ```python\n  a\n  ```", "  a\n"),
        ("```python\nprint('```')\n```", "print('```')\n"),
        ("", None),
        ("<think> never ends", "<think> never ends"),
        ("<think> so </think>  ", None),
    ],
)
def test_program_of_a_response(text: str, program: str | None) -> None:
    assert extract_program(text) == program


def test_program_of_a_response_that_was_read() -> None:
    assert extract_program(read_response("<think> x </think> <answer> ```python\na\n``` </answer>")) == "a\n"
    assert extract_program(Response("x", "```python\na\n```", True)) == "a\n"
    assert extract_program(Response("```python\na\n```", None, False)) is None


# --- comparing output ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("3\n", "3"), ("3  \n\n\n", "3"), ("a b \nc\n", "a b\nc"), ("", "\n"), ("1.0000001", "1.0"), ("2", "2.0"),
        ("1e3", "1000.0"), ("x 0.5 y", "x 0.50 y"), ("1000000.5", "1000000.0"), ("a\r\nb", "a\nb"),
        (" 1", "1"), ("1  2", "1 2"), ("*\n***", " *\n***"),
    ],
)  # fmt: skip
def test_outputs_that_agree(found: str, expected: str) -> None:
    assert find_difference(found, expected) == ""


@pytest.mark.parametrize(
    ("found", "expected", "says"),
    [
        ("1\n2", "1\n2\n3", "2 lines instead of 3"),
        ("", "1", "0 lines instead of 1"),
        ("1\n2\n3\n4", "1\n2\n3", "4 lines instead of 3"),
        ("1\n\n2", "1\n2", "3 lines instead of 2"),
        ("1\n3", "1\n2", "line 2 is '3' instead of '2'"),
        ("10000001", "10000000", "line 1"),
        ("3.0", "3", "line 1"),
        ("1.1", "1.0", "line 1"),
        ("nan", "1.0", "line 1"),
        ("inf", "1e400", "line 1"),
        ("1_0.0", "10.0", "line 1"),
        ("1.0 2.0", "1.0", "line 1"),
        (" 1", "1", ""),
        ("0.0000009", "0.0", ""),  # beside a number under 1 the difference itself counts
        ("0.00001", "0.0", "line 1"),
        ("\n1", "1", "2 lines instead of 1"),
        ("12", "1 2", "line 1 is '12' instead of '1 2'"),
        ("* *", " *", "line 1"),
    ],
)
def test_outputs_that_differ(found: str, expected: str, says: str) -> None:
    assert find_difference(found, expected).startswith(says)


# --- verdicts ------------------------------------------------------------------------------------------------------


@needs_all
def test_a_right_program_of_either_form(box: Sandbox) -> None:
    assert judge(box, SQUARES, "def f(x): return x * x") == Verdict("accuracy", Status.RIGHT, 1.0, "3 tests passed")
    assert judge(box, SUMS, "print(sum(map(int, input().split())))").score == 1.0


@needs_all
@pytest.mark.parametrize(
    ("asked", "source", "note"),
    [
        (SQUARES, "def f(x): return x + 2", r"test 2 of 3: the assertion is false: assert f\(-3\) == 9"),
        (SQUARES, "def f(x): return 4 // (x - 2)", r"test 1 of 3: ZeroDivisionError: .*: assert f\(2\) == 4"),
        (SQUARES, "def g(x): return 4", "test 1 of 3: NameError: name 'f' is not defined"),
        (SQUARES, "def f(x) return 4", "test 1 of 3: SyntaxError"),
        (SQUARES, "def f(x):\n while True: pass", "test 1 of 3: timeout: assert"),
        (SQUARES, "while True: pass", "test 1 of 3: timeout"),
        (SQUARES, "def f(x): return len(bytes(2**36))", "test 1 of 3: memory"),
        (SQUARES, "def f(x):\n while True: print('x' * 9999)", "test 1 of 3: output"),
        (SQUARES, "import ctypes\ndef f(x): return ctypes.string_at(0)", "test 1 of 3: killed"),
        (SUMS, "print(3)", "test 2 of 3: line 1 is '3' instead of '9'"),
        (SUMS, "print(3)\nprint(9)", "test 1 of 3: 2 lines instead of 1"),
        (SUMS, "1 / 0", "test 1 of 3: error: ZeroDivisionError"),
        (SUMS, "while True: pass", "test 1 of 3: timeout"),
    ],
)
def test_a_wrong_program_and_why(box: Sandbox, asked: Problem, source: str, note: str) -> None:
    verdict = judge(box, asked, source)
    assert (verdict.status, verdict.score) == (Status.WRONG, 0.0)
    assert re.match(note, verdict.note), verdict.note


@needs_all
@pytest.mark.parametrize(
    "source",
    [
        'import sys\nsys.__stdout__.write("5\\n")',
        "import atexit, io, sys\nsys.stdout = io.StringIO()\n"
        "@atexit.register\ndef say(): sys.__stdout__.write(sys.stdout.getvalue())\nprint(5)",
        'import io, sys\nout = sys.stdout\nsys.stdout = io.StringIO()\nout.write("5\\n")',
        'out = open(1, "w")\nout.write("5\\n")',
        'import os\nout = os.fdopen(1, "w")\nprint(5, file=out)',
        "class Last:\n def __del__(self): print(5)\nlast = Last()",
    ],
)
def test_what_python_prints_at_its_end_is_there(box: Sandbox, source: str) -> None:
    """As ``python program.py`` has it."""
    asked = Problem("five", "Print 5.", "", "code", meta={"tests": [{"input": "", "output": "5\n"}]})
    assert judge(box, asked, source).status is Status.RIGHT
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "5\n"


@needs_all
def test_a_program_has_no_future_that_it_does_not_import(box: Sandbox) -> None:
    source = "def f(x: List[int]) -> int: return x * x"
    assert "NameError: name 'List' is not defined" in judge(box, SQUARES, source).note
    assert judge(box, SQUARES, f"from __future__ import annotations\n{source}").status is Status.RIGHT


@needs_all
def test_the_share_of_tests_where_it_is_asked_for(box: Sandbox) -> None:
    third = judge(box, SQUARES, "def f(x): return 9", partial=True)
    assert (third.status, third.score) == (Status.WRONG, pytest.approx(1 / 3))
    two_of_three = judge(box, SUMS, "a, b = map(int, input().split())\nprint(a + b if a < 4 else 0)", partial=True)
    assert (two_of_three.status, two_of_three.score) == (Status.WRONG, pytest.approx(2 / 3))
    ends = judge(box, SQUARES, "import os\ndef f(x): return x * x if x == 2 else os._exit(0)", partial=True)
    assert ends.score == pytest.approx(1 / 3), "nothing after the program's end can pass"
    assert judge(box, SQUARES, "def f(x): return x * x", partial=True).score == 1.0


FORGERIES = {
    "equals everything": """
        class Same:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __bool__(self): return True
        def f(x): return Same()""",
    "a number that equals everything": """
        class Same(int):
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        def f(x): return Same(5)""",
    "says that it passed": "print('3 tests passed'); print('ok', flush=True)\ndef f(x): return None",
    "is as long and as true as it is asked to be": """
        class Same:
            def __len__(self): return 4
            def __bool__(self): return True
            def __str__(self): return "4"
            def __iter__(self): return iter([4])
            def __getitem__(self, place): return 4
            def __contains__(self, item): return True
            def __sub__(self, other): return 0
            def __lt__(self, other): return True
            __le__ = __gt__ = __ge__ = __lt__
        def f(x): return Same()""",
    "a named tuple with other ways": """
        import os, struct
        def f(x):
            text = b'{"value": {"named": [["__eq__"], [4]]}}'
            os.write(4, struct.pack(">I", len(text)) + text)""",
    "an exception that there is not": """
        import os, struct
        def f(x):
            text = b'{"error": [["aha.reward.inside._Ended", "json.loads", "os.path.no", ".", "\\u0000"], ["a"]]}'
            os.write(4, struct.pack(">I", len(text)) + text)""",
    "leaves with 0": "import sys\ndef f(x): sys.exit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "leaves in the middle": "import os\ndef f(x): os._exit(0)",
    "raises SystemExit": "raise SystemExit(0)",
    "raises what no handler expects": "def f(x): raise BaseException",
    "cannot be asserted": "import builtins\nbuiltins.AssertionError = None\nAssertionError = None\ndef f(x): return 1",
    "shadows what the tests use": "abs = len = print = lambda *a: True\n__builtins__ = {}\ndef f(x): return 1",
    "runs the tests itself": """
        import builtins
        builtins.exec = builtins.compile = builtins.eval = lambda *a, **k: None
        def f(x): return 1""",
    "looks for the tests": """
        import gc, re, sys
        def f(x):
            frame, seen = sys._getframe(), []
            while frame:
                seen += [frame.f_locals, frame.f_globals]
                frame = frame.f_back
            texts = [str(o) for o in [*gc.get_objects(), *seen]]
            found = re.search(r"assert f\\(%d\\) == (-?\\d+)" % x, " ".join(texts))
            return int(found[1]) if found else 1""",
    "answers for itself": """
        import os, struct
        def say(text):
            for fd in range(1, 64):
                try:
                    os.write(fd, struct.pack(">I", len(text)) + text)
                except OSError:
                    pass
        def f(x):
            say(b'{"value": true}')
            say(b'{"outcome": "ok", "stdout": "", "stderr": "", "seconds": 0, "failures": []}')
            os._exit(0)""",
    "answers nonsense": "import os\ndef f(x):\n os.write(4, b'\\0\\0\\0\\2[]')",
    "answers what no tag means": 'import os\ndef f(x):\n os.write(4, b\'\\0\\0\\0\\x14{"value": {"x": 1}} \')',
    "answers a raised nothing": 'import os\ndef f(x):\n os.write(4, b\'\\0\\0\\0\\x13{"error": ["", ""]} \')',
    "answers without an end": "import os\ndef f(x):\n while True: os.write(4, b'\\xff' * 4096)",
    "is nested without an end": """
        def f(x):
            x = []
            for _ in range(10**5): x = [x]
            return x""",
    "contains itself": "def f(x):\n x = []; x.append(x); return x",
    "is a list without an end": "def f(x): return [0] * 10**8",
    "is an iterator without an end": "import itertools\ndef f(x): return itertools.count()",
    "stops answering": "import os\nos.closerange(0, 64)\ndef f(x): return x * x",
    "is slow to rebuild": """
        import os, struct
        def f(x):
            text = '{"value": {"set": [%s]}}' % ", ".join('{"int": "%x"}' % (i * (2**61 - 1)) for i in range(150_000))
            frame = struct.pack(">I", len(text)) + text.encode()
            while frame:
                frame = frame[os.write(4, frame):]""",
    "is a number that takes for ever": """
        import os, struct
        def f(x):
            text = b'{"value": {"Fraction": "1e999999999"}}'
            os.write(4, struct.pack(">I", len(text)) + text)""",
    "answers a type that there is not": """
        import os, struct
        def f(x):
            text = b'{"value": {"type": "eval"}}'
            os.write(4, struct.pack(">I", len(text)) + text)""",
    "breaks its server": """
        import sys, json
        sys.modules["aha.reward.remote"].encode = lambda *a: True
        json.dumps = lambda *a, **k: '{"value": true}'
        def f(x): return x""",
}


@needs_all
@pytest.mark.parametrize("name", FORGERIES)
def test_no_program_can_forge_a_verdict(box: Sandbox, name: str) -> None:
    verdict = judge(box, SQUARES, FORGERIES[name])
    assert (verdict.status, verdict.score) == (Status.WRONG, 0.0), verdict
    assert verdict.note.startswith("test "), verdict
    assert judge(box, SQUARES, FORGERIES[name], partial=True).score == 0.0
    assert judge(box, SUMS, FORGERIES[name]).status is Status.WRONG


@needs_all
@pytest.mark.parametrize(
    "test",
    [
        "assert 3 in f(x)", "assert abs(f(x) - 1.5) < 1e-6", "assert f(x) <= 5", "assert 1 < f(x)",
        "assert sorted(f(x)) == [4]", "assert all(a <= b for a, b in zip(f(x), f(x)[1:]))", "assert f(x)[0] == 4",
    ],
)  # fmt: skip
def test_an_object_cannot_pass_for_plain_data(box: Sandbox, test: str) -> None:
    pretender = FORGERIES["is as long and as true as it is asked to be"]
    assert judge(box, problem([test], setup="x = 1"), pretender).status is Status.WRONG


@needs_all
def test_what_the_tests_use_is_real(box: Sandbox) -> None:
    """Built-ins, the standard library and the helpers of the setup are never the program's."""
    shadows = """
        class math:
            isclose = staticmethod(lambda *a, **k: True)
        def len(x): return 3
        def same(a, b): return True
        def f(x): return "wrong\""""
    for test in ("assert math.isclose(f(1), 1)", "assert len(f(1)) == 3", "assert same(f(1), 1)"):
        setup = "def same(a, b):\n    return a == b"
        assert judge(box, problem([test], setup=setup), shadows).score == 0.0
        assert (
            judge(box, problem([test.replace("f(1)", "candidate(1)")], setup=setup, entry_point="f"), shadows).score
            == 0
        )
    assert judge(box, problem(["assert math.isclose(f(1), 1)"]), "def f(x): return 1.0").score == 1.0


@needs_all
def test_the_expected_output_never_enters_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def run(self: Sandbox, source: str, *, stdin: str = "", limits: Limits | None = None) -> Result:
        sent.append(source + stdin)
        return Result(Outcome.OK, "needle", "", 0.0)

    monkeypatch.setattr(Sandbox, "run", run)
    asked = problem([{"input": "hay", "output": "needle"}])
    assert judge_programs([asked], ["```python\nprint(1)\n```"])[0].status is Status.RIGHT
    assert sent == ["print(1)\nhay"]


@needs_all
@pytest.mark.parametrize(
    "value",
    [
        "None", "True", "-7", "2**70", "-(2**80)", "1.5", "float('inf')", "1 + 2j", "'é\\n'", "b'\\xff'",
        "bytearray(b'x')",
        "[1, [2, (3,)]]", "(1, 'a', None)", "{1, 2}", "frozenset({1})", "{'a': [1], (2, 3): {4}}", "range(2, 9, 3)",
        "__import__('decimal').Decimal('1.10')", "__import__('fractions').Fraction(1, 3)",
        "__import__('collections').deque([1, 2])", "{1: 2}.keys()", "{1: 2}.items()", "'\\ud800'", "int", "ValueError",
        "__import__('collections').Counter('aab')", "__import__('collections').OrderedDict(b=1, a=2)",
        "__import__('datetime').date(2020, 2, 29)", "__import__('datetime').datetime(2020, 2, 29, 1, 2, 3, 4)",
        "__import__('datetime').time(1, 2)", "__import__('datetime').timedelta(-3, 4, 5)",
    ],
)  # fmt: skip
def test_values_cross_in_both_directions(box: Sandbox, value: str) -> None:
    same = problem([f"assert f({value}) == ({value})", f"assert type(f({value})) is type({value})"])
    assert judge(box, same, "def f(x): return x").score == 1.0
    assert judge(box, same, f"def f(x): return {value}").score == 1.0
    assert judge(box, same, "def f(x): return [x, x]").score == 0.0


@needs_all
def test_subclasses_and_iterators_cross_as_what_they_hold(box: Sandbox) -> None:
    source = """
        import collections, enum
        class Colour(enum.IntEnum): RED = 1
        Point = collections.namedtuple("Point", "x y")
        def count(text): return collections.Counter(text)
        def lazy(n): return (i * i for i in range(n))
        def point(): return Point(1, 2)
        def red(): return Colour.RED
        def across(point): return point.x + point.y
        def views(): return list({1: 2}.values()), sorted({3: 4}.keys())
        LIMIT = 7"""
    tests = [
        "assert count('aab') == {'a': 2, 'b': 1}", "assert list(lazy(3)) == [0, 1, 4]", "assert point() == (1, 2)",
        "assert red() == 1", "assert views() == ([2], [3])", "assert LIMIT == 7",
        "assert count('aab').most_common(1) == [('a', 2)]", "assert point().x == 1 and Point(3, y=4).y == 4",
        "assert across(Point(3, 4)) == 7",
    ]  # fmt: skip
    assert judge(box, problem(tests), source) == Verdict("accuracy", Status.RIGHT, 1.0, "9 tests passed")


@needs_all
def test_objects_of_the_program_can_be_made_used_and_given_back(box: Sandbox) -> None:
    source = """
        class Node:
            def __init__(self, value):
                self.value, self.left = value, None
            def double(self, *, times=2): return self.value * times
            def __len__(self): return depth(self)
            def __str__(self): return f"<{self.value}>"
        class Leaf(Node):
            def __bool__(self): return False
            def __repr__(self): return f"Leaf({self.value})"
        def depth(node): return 0 if node is None else 1 + depth(node.left)
        def fails(x): raise KeyError(x)"""
    setup = "root = Node(5)\nroot.left = Node(6)\nroot.left.left = Node(7)"
    tests = [
        "assert depth(root) == 3", "assert root.left.value == 6", "assert root.double(times=3) == 15",
        "assert depth(Node(1)) == 1", "assert not hasattr(root, 'right')",
        "assert len(root) == 3 and root", "assert str(root) == '<5>' and f'{root.left}' == '<6>'",
        "assert repr(Leaf(2)) == 'Leaf(2)' and not Leaf(2)", "assert root.left is root.left != root",
        "assert isinstance(Leaf(2), Node) and not isinstance(root, Leaf) and not isinstance(2, Node)",
        "try:\n    fails('k')\nexcept KeyError as error:\n    assert 'k' in str(error)\nelse:\n    assert False",
    ]  # fmt: skip
    assert judge(box, problem(tests, setup=setup), source).note == "11 tests passed"
    for test in ("assert root == 5", "assert root == Node(5)", "assert 5 in root", "assert len(list(root)) == 1"):
        assert judge(box, problem([test], setup="root = Node(5)"), source).score == 0.0


@needs_all
@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(x): raise NegativeError('no')", "{} ValueError as error: assert str(error) == 'no'"),
        ("def f(x): raise NegativeError", "{} ValueError as error: assert type(error).__name__ == 'NegativeError'"),
        ("def f(x): raise ValueError('no')", "{} Exception as error: assert type(error) is ValueError"),
        ("import json\ndef f(x): return json.loads('x')", "{} ValueError: pass"),
        ("import json\ndef f(x): return json.loads('x')", "import json\n{} json.JSONDecodeError: pass"),
        ("def f(x): return b'\\xff'.decode()", "{} UnicodeDecodeError as error: assert 'byte 0xff' in str(error)"),
        ("def f(x): return open('/none')", "{} OSError as error: assert 'No such file' in str(error)"),
        ("def f(x): return {}['k']", "{} LookupError as error: assert str(error) == \"'k'\""),
        ("def f(x): raise ExceptionGroup('all', [OSError()])", "{} Exception as error: assert 'all (' in str(error)"),
    ],
)
def test_an_exception_crosses_as_what_it_derives_from(box: Sandbox, program: str, test: str) -> None:
    source = f"class NegativeError(ValueError): pass\n{program}"
    expects = test.format("try: f(1)\nexcept") + "\nelse: assert False"
    assert judge(box, problem([expects]), source).score == 1.0
    assert judge(box, problem([expects]), source + "\ndef f(x): return None").score == 0.0
    other = judge(box, problem([expects]), source + "\ndef f(x): raise RuntimeError('another')")
    assert other.score == 0.0


@needs_all
def test_an_exception_of_no_standard_kind_is_named_in_the_verdict(box: Sandbox) -> None:
    source = "class Lost(Exception): pass\ndef f(x):\n    raise {}"
    assert judge(box, SQUARES, source.format("Lost('no path')")).note.startswith("test 1 of 3: Lost: no path: assert")
    assert judge(box, SQUARES, source.format("SystemExit(0)")).note.startswith("test 1 of 3: ProgramRaised: SystemExit")


@needs_all
def test_a_test_that_swallows_exceptions_does_not_pass_a_program_that_is_gone(box: Sandbox) -> None:
    forgiving = problem(["try:\n    f(1)\nexcept BaseException:\n    pass"])
    assert judge(box, forgiving, "import os\ndef f(x): os._exit(0)").status is Status.WRONG
    assert judge(box, forgiving, "def f(x): raise ValueError").status is Status.RIGHT
    endless = problem(["try:\n    while f(1): pass\nexcept BaseException:\n    pass"])
    verdict = judge(box, endless, "def f(x): return 1", limits=Limits(cpu_seconds=9, wall_seconds=1))
    assert (verdict.status, verdict.note.split(":")[1].strip()) == (Status.WRONG, "timeout")


# --- many at a time ------------------------------------------------------------------------------------------------


@needs_all
def test_verdicts_are_in_order_whatever_takes_longer() -> None:
    asked = [problem([{"input": str(number), "output": str(number)}]) for number in range(12)]
    slow = "import time; n = int(input()); time.sleep((12 - n) / 60); print(n if n % 3 else 'no')"
    verdicts = judge_programs(asked, [f"```python\n{slow}\n```"] * 12, workers=4)
    assert [verdict.score for verdict in verdicts] == [float(number % 3 > 0) for number in range(12)]
    assert judge_programs([], []) == []


@needs_all
def test_no_more_programs_run_at_a_time_than_there_are_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock, boxes = 0, 0, threading.Lock(), set()

    def run(self: Sandbox, source: str, *, stdin: str = "", limits: Limits | None = None) -> Result:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            boxes.add(id(self))
        time.sleep(0.01)
        with lock:
            running -= 1
        return Result(Outcome.OK, "1", "", 0.0)

    monkeypatch.setattr(Sandbox, "run", run)
    asked = [problem([{"input": "", "output": "1"}])] * 40
    assert all(v.score == 1 for v in judge_programs(asked, ["print(1)"] * 40, workers=3))
    assert most == 3
    assert len(boxes) == 3


@needs_all
def test_a_program_that_waits_is_stopped_and_the_others_are_judged() -> None:
    asked = [problem([{"input": "", "output": "1"}])] * 4
    sleeps, prints = "```python\nimport time; time.sleep(60)\n```", "```python\nprint(1)\n```"
    began = time.monotonic()
    verdicts = judge_programs(asked, [sleeps, prints, sleeps, prints], limits=Limits(wall_seconds=1), workers=2)
    assert time.monotonic() - began < 30
    assert [verdict.score for verdict in verdicts] == [0, 1, 0, 1]
    assert verdicts[0].note == "test 1 of 1: timeout"


@needs_all
def test_a_sandbox_that_fails_is_an_error_and_not_a_wrong_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Sandbox, *arguments: Any, **named: Any) -> Result:
        raise SandboxError("the sandbox failed: no answer")

    monkeypatch.setattr(Sandbox, "test", broken)
    monkeypatch.setattr(Sandbox, "run", broken)
    for verdict in judge_programs([SQUARES, SUMS], ["def f(x): return x * x", "print(1)"]):
        assert (verdict.status, verdict.score) == (Status.ERROR, 0.0)
        assert verdict.note == "the sandbox failed: no answer"


def test_nothing_is_run_where_a_layer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (Layer("rlimits", ""), Layer("seccomp", ""), Layer("namespaces", "faked"))
    monkeypatch.setattr(sandbox, "find_layers", lambda: layers)
    with pytest.raises(SandboxRefused, match="faked"):
        judge_programs([SQUARES], ["def f(x): return x * x"])


@pytest.mark.parametrize(
    "tests", [None, [], "assert f(1)", [""], [{"input": "1"}], ["assert f(1)", {"input": "", "output": ""}]]
)
def test_a_problem_without_tests_is_refused_by_name(tests: Any) -> None:
    broken = Problem("sorting/7", "Sort.", "", "code", meta={} if tests is None else {"tests": tests})
    with pytest.raises(DataError, match="sorting/7"):
        judge_programs([SQUARES, broken], ["", ""])


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        ({"tests": [{"input": "3", "output": 9}]}, "the output of test 1 is 9, not text"),
        ({"tests": [{"input": ["3"], "output": "9"}]}, r"the input of test 1 is \['3'\]"),
        ({"tests": ["assert f(1) == 1"], "setup": None}, "setup is None, not text"),
    ],
)
def test_tests_that_are_no_text_are_refused_by_name(meta: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=f"problem 'odd': {says}"):
        judge_programs([Problem("odd", "Square.", "", "code", meta=meta)], [""])


@needs_all
def test_the_judge_is_one_that_the_rubric_takes() -> None:
    judges: Judge = judge_programs
    right = read_response("<think> so </think> <answer>\n```python\ndef f(x): return x * x\n```\n</answer>")
    verdicts = judges([SQUARES, SQUARES], [right, Response("no answer", None, False)])
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0]
    assert verdicts[1].note == "no program: no single answer"


# --- rows of benchmarks --------------------------------------------------------------------------------------------

HUMANEVAL_ROW = {
    "task_id": "Own/0",
    "prompt": "import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef root(x: int) -> float:\n    'Its root.'\n",
    "canonical_solution": "    return math.sqrt(x)\n",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n    assert half(candidate(16)) == 2\n",
    "entry_point": "root",
}
MBPP_ROW = {
    "task_id": 7,
    "text": "Write a function to double.",
    "code": "def double(x):\n    return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(limit) == 200"],
    "test_setup_code": "limit = 100",
}


@needs_all
@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("    return math.sqrt(x)\n", 1.0),
        ("```python\ndef root(x):\n    return x ** 0.5\n```", 1.0),
        ("```python\nimport math\ndef root(x: int) -> float:\n    return math.sqrt(x)\n```", 1.0),
        ("    return x\n", 0.0),
        ("```python\ndef half(x): return 2\ndef root(x): return 2\n```", 0.0),  # the helper is that of the prompt
        ("```python\ndef other(x): return 2\n```", 0.0),
        ("", 0.0),
    ],
)
def test_a_row_of_humaneval(box: Sandbox, response: str, score: float) -> None:
    asked = humaneval_problem(HUMANEVAL_ROW)
    assert (asked.id, asked.task, asked.prompt) == ("Own/0", "code", HUMANEVAL_ROW["prompt"])
    assert programs.judge_program(box, asked, response, limits=LIMITS).score == score


@needs_all
def test_a_row_of_mbpp(box: Sandbox) -> None:
    asked = mbpp_problem(MBPP_ROW)
    assert asked.prompt.startswith("Write a function to double.\nYour code should pass these tests:\nassert double(2)")
    assert judge(box, asked, asked.answer).score == 1.0
    assert judge(box, asked, "def double(x): return x + 2").score == 0.0
    summing = {**MBPP_ROW, "code": "def sum(a, b): return a + b", "test_list": ["assert sum(1, 2) == 3"]}
    assert judge(box, mbpp_problem(summing), "def sum(a, b): return a + b").score == 1.0
    shadows = "def isinstance(a, b): return True\ndef double(x): return 'x'"
    strict = {**MBPP_ROW, "test_list": ["assert isinstance(double(2), int)"]}
    assert judge(box, mbpp_problem(strict), shadows).score == 0.0
    renamed = {"id": "m/7", "problem": "t", "answer": MBPP_ROW["code"], "tests": MBPP_ROW["test_list"]}
    assert judge(box, mbpp_problem({**renamed, "test_setup": "limit = 100"}), asked.answer).score == 1.0


def test_a_row_that_lacks_a_field_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"Own/0.*entry_point"):
        humaneval_problem({key: value for key, value in HUMANEVAL_ROW.items() if key != "entry_point"})
    with pytest.raises(DataError, match=r"7.*test_list"):
        mbpp_problem({**MBPP_ROW, "test_list": []})


# --- what crosses between the processes ----------------------------------------------------------------------------


def test_whole_numbers_of_any_size_cross() -> None:
    """Python writes none of more than 4,300 digits in decimals."""

    def refer(value: Any) -> int:
        raise AssertionError(value)

    for number in (2**53 - 1, 2**53, 7**9_999, -(7**9_999)):
        assert remote.decode(json.loads(json.dumps(remote.encode(number, refer))), refer) == number


def test_a_program_that_names_more_than_it_was_asked_for_replaces_nothing() -> None:
    class Forger(remote.Program):
        def ask(self, operation: str, *operands: Any) -> Any:
            return ["f", "isinstance", "other"] if operation == "names" else operands[0]

    seen = remote.build_namespace(
        Forger(lambda message: b""), setup="", tests=["assert isinstance(f(2), int)"], entry_point="", exports=None
    )
    assert seen["f"] == "f" and "isinstance" not in seen and "other" not in seen
