"""Jobs in processes: order, deadline, memory, death, reuse, threads, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aha.errors import VerifierError
from aha.util.workers import End, Outcome, Workers

HERE = str(Path(__file__).parent)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setenv("PYTHONPATH", HERE)
    workers = Workers("naughty:do", size=2, deadline=1.0, memory=512 << 20)
    yield workers
    workers.close()


def test_values_come_in_the_order_of_the_jobs_and_processes_are_used_again(pool: Workers) -> None:
    assert pool.started == 0  # until there is something to do
    jobs = [("sleep", 0.2)] + [("is", i) for i in range(300)]
    assert [outcome.value for outcome in pool.run(jobs)] == [0.2, *range(300)]
    pool.run(jobs)
    assert pool.started == 2
    assert pool.run([]) == []


def test_a_process_is_replaced_after_its_lifetime(pool: Workers) -> None:
    pool.size, pool.lifetime = 1, 3
    assert len({outcome.value for _ in range(7) for outcome in pool.run([("pid",)])}) == pool.started == 3


def test_an_endless_job_ends_at_its_deadline_and_the_others_are_done(pool: Workers) -> None:
    started = time.monotonic()
    ends = [o.end for o in pool.run([("sleep", 99), ("is", 1), ("spin",), ("is", 2)])]
    assert ends == [End.TIMEOUT, End.DONE, End.TIMEOUT, End.DONE]
    assert time.monotonic() - started < 10
    assert [o.value for o in pool.run([("is", 3)])] == [3]


def test_memory_is_limited(pool: Workers) -> None:
    ends = [o.end for o in pool.run([("allocate", 1 << 30), ("allocate", 1 << 20), ("is", 1)])]
    assert ends == [End.MEMORY, End.DONE, End.DONE]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_killed_in_mid_job_is_no_fault_of_the_job(pool: Workers, number: int, tmp_path: Path) -> None:
    outcomes = pool.run([("signal once", [str(tmp_path / "mark"), number]), ("is", 2)])
    assert [o.end for o in outcomes] == [End.DONE, End.DONE]
    assert pool.started in (2, 3)  # the other process may be free in time to take the job over


def test_a_job_that_kills_two_processes_is_at_fault_and_the_signal_tells_whose_it_is(pool: Workers) -> None:
    jobs = [("signal", signal.SIGSEGV), ("signal", signal.SIGKILL), ("signal", signal.SIGTERM), ("is", 4)]
    assert [o.end for o in pool.run(jobs)] == [End.CRASHED, End.KILLED, End.KILLED, End.DONE]


def test_an_idle_process_that_was_killed_is_replaced(pool: Workers) -> None:
    pool.size = 1
    (pid,) = pool.run([("pid",)])
    os.kill(pid.value, signal.SIGKILL)
    assert pool.run([("is", 5)]) == [Outcome(End.DONE, 5)]


def test_exceptions_and_exits_are_told_and_prints_are_no_replies(pool: Workers) -> None:
    outcomes = pool.run([("exit", 3), ("print", '{"value": 6}'), ("allocate", "x")])
    assert outcomes[0] == Outcome(End.RAISED, None, "SystemExit: 3")
    assert outcomes[1].value == '{"value": 6}'
    assert outcomes[2].end is End.RAISED and "TypeError" in outcomes[2].note


def test_it_works_in_other_threads_at_once_and_sets_no_alarm(pool: Workers) -> None:
    found: dict[int, list[Outcome]] = {}

    def work(name: int) -> None:
        found[name] = pool.run([("is", name)] * 20 + [("alarm",), ("sleep", 0.01)])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all([o.value for o in found[i][:20]] == [i] * 20 for i in range(4))
    assert pool.started == 2


def test_a_function_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(VerifierError, match="nowhere:nothing.*No module named 'nowhere'"):
        Workers("nowhere:nothing", deadline=1.0).run([[1]] * 100)


def test_processes_end_with_their_pool(pool: Workers) -> None:
    pids = {o.value for o in pool.run([("pid",)] * 50)}
    pool.close()
    assert not any(alive(pid) for pid in pids)
    assert pool.run([("is", 1)])[0].value == 1


@pytest.mark.parametrize("ending", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "raise KeyError"])
def test_processes_end_with_their_program_however_it_ends(ending: str) -> None:
    program = (
        "from aha.util.workers import Workers\n"
        "pool = Workers('naughty:do', size=2, deadline=9.0)\n"
        f"print(*{{o.value for o in pool.run([('pid',)] * 50)}}, flush=True)\n{ending}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    pids = [int(pid) for pid in found.stdout.split()]
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids and not any(map(alive, pids))


def test_a_worker_of_formulas_imports_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import aha.util.worker, aha.tasks.symbolic, sys; print('torch' in sys.modules)"
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout == "False\n"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
