"""Programs that attack: none gets out, each is told as what it was, and nothing of it is left."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import aha
from aha.errors import AhaError, SandboxError, SandboxRefused
from aha.reward import confine, sandbox
from aha.reward.sandbox import Layer, Limits, Minimum, Outcome, Sandbox, check_layers, find_layers

MISSING = "; ".join(f"{layer.name}: {layer.missing}" for layer in find_layers() if layer.missing)
needs_all = pytest.mark.skipif(bool(MISSING), reason=f"a layer of the sandbox is missing here ({MISSING})")
needs_limits = pytest.mark.skipif(bool(find_layers()[0].missing), reason="no resource limits here")
LIMITS = Limits(cpu_seconds=1, wall_seconds=2, memory=256 * 2**20, output=2**20)
SECRET = "a-secret-of-the-caller"


def descendants(root: int) -> dict[int, int]:
    """Every process below ``root``, with its parent, as /proc has them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
    found, wanted = {}, {root}
    while wanted:
        below = {child: parent for child, parent in parents.items() if parent in wanted}
        found |= below
        wanted = set(below)
    return found


def assert_nothing_runs_in(box: Sandbox) -> None:
    assert box._process is not None
    assert box._process.poll() is None
    assert len(descendants(box._process.pid)) == 1, "only the warm process itself may be there"


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """A sandbox inside limits of this test: should a layer fail, the machine must not."""
    with Sandbox() as one:
        one.run("")
        assert one._process is not None
        (warm,) = descendants(one._process.pid)
        resource.prlimit(warm, resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
        yield one


@dataclasses.dataclass(frozen=True)
class Attack:
    """A program that prints BREACH where it gets what it must not. ``says`` is in its standard error."""

    name: str
    source: str
    outcomes: tuple[Outcome, ...]
    says: str = ""


OK, ERROR, TIMEOUT, MEMORY, OUTPUT, KILLED = Outcome
TRY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, action):
    try:
        result = action()
    except (OSError, RuntimeError, ImportError) as error:
        print(what, "failed:", error)
        return
    print("BREACH", what, result)
def call(what, number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        print(what, "failed:", os.strerror(ctypes.get_errno()))
    else:
        print("BREACH", what)
"""
ATTACKS = [
    Attack("fork bomb", """
        import os, time
        for _ in range(200):
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
        print("BREACH")""", (ERROR,), "Operation not permitted"),
    Attack("another program", """
        import subprocess
        print("BREACH", subprocess.run([__import__("sys").executable or "/bin/sh", "-c", "1"]))""", (ERROR,)),
    Attack("threads without end", """
        import threading, time
        threading.stack_size(32768)
        for number in range(1000):
            threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        print("BREACH")""", (ERROR,), "can't start new thread"),
    Attack("10 GB at once", "x = bytes(10 * 2**30); print('BREACH')", (MEMORY,)),
    Attack("10 GB mapped", "import mmap; mmap.mmap(-1, 10 * 2**30); print('BREACH')", (ERROR, MEMORY), "allocate"),
    Attack("memory piece by piece", """
        kept = []
        for _ in range(300):
            kept.append(bytearray(b"x" * 10 * 2**20))
        print("BREACH")""", (MEMORY,)),
    Attack("memory that no limit counts", TRY + """
attempt("memfd", lambda: os.memfd_create("x"))
call("shmget", 29 if os.uname().machine == "x86_64" else 194, 0, 2**30, 0o1600)
""", (OK,)),
    Attack("infinite loop", "while True: pass", (TIMEOUT,)),
    Attack("infinite loop, deaf", """
        import signal
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        while True:
            pass""", (TIMEOUT,)),
    Attack("infinite loop in C", "sum(iter(int, 1))", (TIMEOUT,)),
    Attack("sleeps for ever", "import time; time.sleep(10**6)", (TIMEOUT,)),
    Attack("stops itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", (TIMEOUT,)),
    Attack("waits for input", "import select; select.select([], [], [])", (TIMEOUT,)),
    Attack("a thread that never ends", """
        import threading, time
        threading.Thread(target=time.sleep, args=(10**6,)).start()""", (TIMEOUT,)),
    Attack("prints for ever", "while True: print('x' * 1000)", (OUTPUT,)),
    Attack("complains for ever", "import sys\nwhile True: sys.stderr.write('x' * 1000)", (OUTPUT,)),
    Attack("huge exception message", "raise ValueError('x' * 50_000_000)", (OUTPUT, MEMORY)),
    Attack("exception that never says it", """
        class Endless(Exception):
            def __str__(self):
                while True:
                    pass
        raise Endless""", (TIMEOUT,)),
    Attack("home directories", TRY + """
for home in ("/home", "/var", "/opt", "/mnt", "/srv", "/etc/passwd", os.path.expanduser("~/.ssh")):
    attempt(home, lambda: os.listdir(home))
python = os.path.dirname(os.path.dirname(os.__file__))
shown = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", python)
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in shown]
    for name in files:
        if folder != "/dev" and os.path.join(folder, name) != "/etc/ld.so.cache":
            print("BREACH", folder, name)
""", (OK,)),
    Attack("shadow file", "print('BREACH', open('/etc/shadow').read())", (ERROR,), "No such file"),
    Attack("processes of the host", TRY + """
for path in ("/proc/1/environ", "/proc/self/environ", "/proc/1/root", "/proc", "/sys", "/dev/shm", "/dev/mem"):
    attempt(path, lambda: os.stat(path))
""", (OK,)),
    Attack("memory of the parent", TRY + """
buffer = ctypes.create_string_buffer(64)
here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 64)
there = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 64)
for pid in (os.getppid(), 1):
    attempt("mem", lambda: open(f"/proc/{pid}/mem", "rb"))
    call("process_vm_readv", 310 if os.uname().machine == "x86_64" else 270, pid, here, 1, there, 1, 0)
    call("ptrace", 101 if os.uname().machine == "x86_64" else 117, 16, pid, 0, 0)
call("pidfd_open", 434, 1, 0)
call("kcmp", 312 if os.uname().machine == "x86_64" else 272, 1, 1, 0, 0, 0)
""", (OK,)),
    Attack("writing outside", TRY + """
stdlib = os.path.dirname(os.__file__)
for folder in ("/", "/usr", "/usr/lib", "/lib", "/etc", "/dev", stdlib, CALLER, REPOSITORY):
    attempt(folder, lambda: open(os.path.join(folder, "aha-was-here"), "w"))
attempt("module", lambda: open(os.__file__, "a"))
attempt("remove", lambda: os.remove(os.__file__))
attempt("remove the input", lambda: os.remove("/dev/stdin"))
attempt("link the input", lambda: os.link("/dev/stdin", "/tmp/input"))
attempt("chmod", lambda: os.chmod(os.__file__, 0o777))
attempt("rename", lambda: os.rename(os.__file__, os.__file__ + "x"))
attempt("truncate", lambda: os.truncate(os.__file__, 0))
""", (OK,)),
    Attack("fills the disk", TRY + """
written = 0
def fill():
    global written
    for number in range(300):
        with open(f"/tmp/{number}", "wb", buffering=0) as file:
            written += file.write(bytes(2**20))
attempt("fill", fill)
if written > 70 * 2**20:
    print("BREACH", written)
""", (OK,)),
    Attack("one huge file", "import os\nos.truncate(os.open('/tmp/x', 66), 2**40)\nprint('BREACH')", (ERROR,)),
    Attack("files without end", """
        for number in range(100_000):
            open(f"/tmp/{number}", "w").close()
        print("BREACH")""", (ERROR,), "No space left"),
    Attack("sockets", TRY + """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
    attempt(family, lambda: socket.socket(family, socket.SOCK_STREAM))
attempt("socketpair", socket.socketpair)
attempt("connection", lambda: socket.create_connection(("127.0.0.1", 22), 1))
""", (OK,)),
    Attack("signals to others", TRY + """
for pid in (-1, 0, 1, os.getppid()):
    for number in (0, 9, 15, 19):
        attempt(("kill", pid), lambda: os.kill(pid, number))
attempt("killpg", lambda: os.killpg(os.getpgrp(), 9))
import fcntl
attempt("owner", lambda: fcntl.fcntl(0, fcntl.F_SETOWN, 1))
call("rt_sigqueueinfo", 129 if os.uname().machine == "x86_64" else 138, 1, 9, 0)
""", (OK,)),
    Attack("daemon that survives", """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
        print("BREACH")""", (ERROR,)),
    Attack("session of its own", TRY + """
attempt("setsid", os.setsid)
attempt("setpgid", lambda: os.setpgid(0, 0))
""", (OK,)),
    Attack("symbolic links", TRY + """
os.symlink("/", "/tmp/root")
os.symlink(CALLER, "/tmp/caller")
os.symlink("/proc/1/root", "/tmp/host")
for path in ("/tmp/root/etc/passwd", "/tmp/caller/secret", "/tmp/host/etc/passwd", "/tmp/root/../../etc/passwd"):
    attempt(path, lambda: open(path).read())
attempt("through the link", lambda: open("/tmp/root/aha-was-here", "w"))
""", (OK,)),
    Attack("hard links", TRY + """
attempt("hard link", lambda: os.link(os.__file__, "/tmp/os.py"))
attempt("hard link of a device", lambda: os.link("/dev/null", "/tmp/null"))
attempt("hard link out", lambda: (open("/tmp/a", "w"), os.link("/tmp/a", "/usr/lib/a")))
""", (OK,)),
    Attack("another user", TRY + """
attempt("setuid", lambda: os.setuid(0))
attempt("setresgid", lambda: os.setresgid(0, 0, 0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("chown", lambda: (open("/tmp/x", "w"), os.chown("/tmp/x", 0, 0)))
if os.getuid() == 0 or os.geteuid() == 0:
    print("BREACH")
""", (OK,)),
    Attack("another root", TRY + """
attempt("chroot", lambda: os.chroot("/tmp"))
attempt("device", lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)))
attempt("named pipe", lambda: os.mkfifo("/tmp/pipe"))
x86 = os.uname().machine == "x86_64"
call("mount", 165 if x86 else 40, b"tmpfs", b"/tmp", b"tmpfs", 0, 0)
call("umount", 166 if x86 else 39, b"/tmp", 2)
call("pivot_root", 155 if x86 else 41, b"/tmp", b"/tmp")
call("unshare", 272 if x86 else 97, 0x10000000)
call("setns", 308 if x86 else 268, 0, 0)
call("clone with a new user namespace", 56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)
call("clone3", 435, 0, 0)
call("open_tree", 428, -100, b"/", 1)
call("mount_setattr", 442, -100, b"/", 0, 0, 0)
call("name_to_handle_at", 303 if x86 else 264, -100, b"/", 0, 0, 0)
""", (OK,)),
    Attack("rare system calls", TRY + """
x86 = os.uname().machine == "x86_64"
for name, first, second in (
    ("bpf", 321, 280), ("keyctl", 250, 219), ("add_key", 248, 217), ("io_uring_setup", 425, 425),
    ("userfaultfd", 323, 282), ("perf_event_open", 298, 241), ("personality", 135, 92), ("execve", 59, 221),
    ("execveat", 322, 281), ("seccomp", 317, 277), ("reboot", 169, 142), ("init_module", 175, 105),
    ("kexec_load", 246, 104), ("swapon", 167, 224), ("sethostname", 170, 161), ("msgget", 68, 186),
    ("semget", 64, 190), ("inotify_init1", 294, 26), ("signalfd4", 289, 74), ("timerfd_create", 283, 85),
    ("sched_setaffinity", 203, 122), ("setpriority", 141, 140), ("acct", 163, 89), ("syslog", 103, 116),
    ("quotactl", 179, 60), ("prctl", 157, 167), ("tkill", 200, 130), ("process_madvise", 440, 440),
    ("no such call", 9999, 9999),
):
    call(name, first if x86 else second, 0, 0, 0, 0, 0)
if x86:
    call("getpid of x32", 0x40000000 | 39)
""", (OK,)),
    Attack("raises its own limits", TRY + """
import resource
for name in ("AS", "CPU", "NPROC", "NOFILE", "FSIZE", "CORE"):
    which = getattr(resource, "RLIMIT_" + name)
    try:
        resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print("BREACH", name)
    except (ValueError, OSError) as error:
        print(name, error)
try:
    resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))
    print("BREACH")
except OSError as error:
    print(error)
""", (OK,)),
    Attack("file descriptors that it inherited", TRY + """
for fd in range(3, 2000):
    try:
        os.write(fd, b"forged")
        print("BREACH write", fd)
    except OSError:
        pass
    try:
        os.read(fd, 1)
        print("BREACH read", fd)
    except OSError:
        pass
""", (OK,)),
    Attack("deep recursion", "def f(n): return f(n + 1)\nf(0)", (ERROR,), "RecursionError"),
    Attack("recursion without a limit", """
        import sys
        sys.setrecursionlimit(10**9)
        def f(n): return f(n + 1)
        f(0)""", (MEMORY, KILLED, TIMEOUT)),
    Attack("recursion in C", """
        import functools, sys
        sys.setrecursionlimit(10**9)
        class Deep:
            def __repr__(self): return repr([self])
        repr(Deep())""", (KILLED, MEMORY, TIMEOUT, ERROR)),
    Attack("a null pointer", "import ctypes; ctypes.string_at(0)", (KILLED,)),
    Attack("kills itself", "import os; os.kill(os.getpid(), 9)", (KILLED,)),
    Attack("aborts", "import os; os.abort()", (KILLED,)),
    Attack("zip bomb", """
        import zlib
        bomb = zlib.compress(bytes(400 * 2**20), 1)
        print("BREACH", len(zlib.decompress(zlib.compress(bytes(2**28)))))""", (MEMORY,)),
    Attack("number to text", "import sys\nsys.set_int_max_str_digits(0)\nstr(7 ** 10**8)", (TIMEOUT, MEMORY)),
    Attack("text to syntax tree", "eval('(' * 10**6)", (ERROR, MEMORY, KILLED)),
    Attack("code that is too deep", "exec('-' * 3_000_000 + '1')", (ERROR, MEMORY, KILLED)),
    Attack("closes its output", "import os\nos.close(1)\nos.close(2)", (OK, ERROR)),
    Attack("closes its output and stays", "import os, time\nos.closerange(0, 64)\ntime.sleep(100)", (TIMEOUT,)),
    Attack("exits in a thread", "import os, threading\nthreading.Thread(target=os._exit, args=(3,)).start()", (ERROR,)),
    Attack("replaces what runs it", """
        import sys, builtins, gc
        for name in list(sys.modules):
            if name.startswith("aha"):
                for key in list(vars(sys.modules[name])):
                    setattr(sys.modules[name], key, None)
        builtins.exec = builtins.compile = builtins.open = None
        raise SystemExit(5)""", (ERROR,)),
]  # fmt: skip


@needs_all
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(attack: Attack, box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    repository = Path(aha.__file__).parent
    before = sorted(repository.iterdir())
    scratch = {path.name for path in Path("/tmp").iterdir()}
    places = f"CALLER = {str(tmp_path)!r}\nREPOSITORY = {str(repository)!r}\n"
    began = time.monotonic()
    limits = LIMITS if TIMEOUT in attack.outcomes else dataclasses.replace(LIMITS, cpu_seconds=10, wall_seconds=60)
    result = box.run(places + textwrap.dedent(attack.source), limits=limits)
    assert time.monotonic() - began < limits.wall_seconds + 15
    assert "BREACH" not in result.stdout, result.stdout
    assert result.outcome in attack.outcomes, result
    assert attack.says in result.stderr
    assert SECRET not in result.stdout
    assert len(result.stdout) + len(result.stderr) <= LIMITS.output + 70_000
    assert_nothing_runs_in(box)
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == SECRET
    assert sorted(repository.iterdir()) == before
    new = {path.name for path in Path("/tmp").iterdir()} - scratch
    assert not new & {"0", "root", "caller", "host", "x", "a", "os.py", "null", "disk", "pipe"}
    for folder in ("/", "/usr", "/usr/lib", "/etc", os.path.dirname(os.__file__)):
        assert not (Path(folder) / "aha-was-here").exists()
    assert box.run("print(1)").stdout == "1\n", "the next program is not disturbed"


@needs_all
def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHA_TOKEN", SECRET)
    search = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_char_p
        print(dict(os.environ), libc.getenv(b"AHA_TOKEN"), libc.getenv(b"PATH"), libc.getenv(b"HOME"))"""
    with Sandbox() as one:
        assert one.run(textwrap.dedent(search)).stdout == "{} None None None\n"


@needs_all
def test_a_program_sees_nothing_of_an_earlier_one(box: Sandbox) -> None:
    token = "left-by-the-first"
    write = f"open('/tmp/x', 'w').write({token!r})\nopen('/dev/stdin', 'a').write({token!r})\n"
    first = box.run(f"{write}import math\nmath.secret = {token!r}\nprint({token!r})", stdin=token)
    assert first.stdout == token + "\n"
    look = """
        import gc, math, os, sys
        print(os.listdir("/tmp"), os.getcwd(), hasattr(math, "secret"))
        half = "left-by-"
        print(repr(open("/dev/stdin").read()))
        held = [o for o in gc.get_objects() if isinstance(o, (list, dict, tuple))]
        print([o for o in held if half + "the-first" in map(str, o)])"""
    assert box.run(textwrap.dedent(look)).stdout == "[] /tmp False\n''\n[]\n"


@needs_all
def test_memory_that_a_program_inherits_has_never_held_a_request(box: Sandbox) -> None:
    """Neither tests of this request nor anything of an earlier one: searched byte by byte, not object by object."""
    token, parts = "needle-in-the-tests", ("needle-", "in-the-tests")
    box.run("print(1)", stdin=token)
    box.test("f = abs", tests=[f"assert f('{token}')"])
    search = f"""
        import ctypes
        libc = ctypes.CDLL(None)
        libc.sbrk.restype = ctypes.c_void_p
        libc.sbrk.argtypes = [ctypes.c_long]
        end = libc.sbrk(0)
        heap = ctypes.string_at(end - 2**17, 2**17)
        arena = id(object()) & ~(2**18 - 1)
        heap += ctypes.string_at(arena, 2**18)
        needle = {parts[0]!r}.encode() + {parts[1]!r}.encode()
        def f(x):
            return heap.count(needle)
        print(f(0))"""
    result = box.run(textwrap.dedent(search))
    assert result.stdout == "0\n", result
    found = box.test(textwrap.dedent(search), tests=["assert f(1) == 0", f"assert f({token!r}) == 0"], stop=False)
    assert found.failures == (), found


@needs_all
def test_what_a_program_may_do(box: Sandbox) -> None:
    source = """
        import dataclasses, decimal, os, sqlite3, sys, tempfile, threading
        sys.setrecursionlimit(10**6)
        threading.stack_size(2**26)
        def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
        results = []
        thread = threading.Thread(target=lambda: results.append(deep(20_000)))
        thread.start(); thread.join()
        with tempfile.NamedTemporaryFile("w+") as file:
            file.write("kept"); file.flush(); file.seek(0)
            results.append(file.read())
        database = sqlite3.connect("/tmp/x.db")
        database.execute("create table t (a int)"); database.execute("insert into t values (7)"); database.commit()
        results.append(database.execute("select a from t").fetchone()[0])
        os.mkdir("folder"); os.rename("folder", "other"); results.append(os.path.isdir("/tmp/other"))
        print(results, input(), sys.stdin.read().split(), decimal.Decimal(1) / 3, __name__, os.cpu_count() > 0)
        import atexit
        atexit.register(print, "last")
        @dataclasses.dataclass
        class Point: x: int
        print(Point(3))
        threading.Timer(0.05, print, ["in a thread"]).start()"""
    result = box.run(textwrap.dedent(source), stdin="first\nsecond third\n")
    assert result.outcome is Outcome.OK, result
    assert result.stdout == (
        "[20000, 'kept', 7, True] first ['second', 'third'] 0.3333333333333333333333333333 __main__ True\n"
        "Point(x=3)\nin a thread\nlast\n"
    )


@needs_all
def test_a_program_is_the_same_each_time(box: Sandbox) -> None:
    source = "import random; print(random.random(), hash('a'), list({'a', 'b', 'c'}))"
    assert len({box.run(source).stdout for _ in range(3)}) == 1


@needs_all
def test_exit_codes_and_exceptions(box: Sandbox) -> None:
    assert box.run("import sys; sys.exit()").outcome is Outcome.OK
    assert box.run("import sys; sys.exit(0)").outcome is Outcome.OK
    assert box.run("import sys; sys.exit(3)").outcome is Outcome.ERROR
    assert box.run("import sys; sys.exit('no')").outcome is Outcome.ERROR
    assert box.run("raise KeyboardInterrupt").outcome is Outcome.ERROR
    failed = box.run("print('before')\n1 / 0")
    assert (failed.outcome, failed.stdout) == (Outcome.ERROR, "before\n")
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "SyntaxError" in box.run("def").stderr
    assert box.run("print('\\ud800')").outcome is Outcome.OK


@needs_all
@pytest.mark.parametrize(
    ("source", "outcome", "stdout"),
    [
        ("print(input())\nexit()\nprint('never')", Outcome.OK, "first\n"),
        ("def main():\n    print(1)\n    quit(0)\nmain()", Outcome.OK, "1\n"),
        ("exit(3)", Outcome.ERROR, ""),
        ("quit('no')", Outcome.ERROR, ""),
        ("try:\n    exit(2)\nexcept SystemExit as stop:\n    print(stop.code)", Outcome.OK, "2\n"),
        ("import os; print(__file__, os.path.dirname(os.path.abspath(__file__)))", Outcome.OK, "program.py /tmp\n"),
        ("print(open('/dev/stdin').read().split())", Outcome.OK, "['first', 'second', 'third']\n"),
        ("import sys; sys.stdin = open('/dev/stdin'); print(input(), input())", Outcome.OK, "first second third\n"),
        ("print(open(0).read().split())", Outcome.OK, "['first', 'second', 'third']\n"),
    ],
)
def test_what_every_script_finds(box: Sandbox, source: str, outcome: Outcome, stdout: str) -> None:
    result = box.run(source, stdin="first\nsecond third\n")
    assert (result.outcome, result.stdout) == (outcome, stdout), result


@needs_all
def test_large_input_and_output_cross(box: Sandbox) -> None:
    text = "0123456789\n" * 200_000
    result = box.run("import sys; sys.stdout.write(sys.stdin.read())", stdin=text)
    assert result.stdout == text
    assert box.run("", stdin=text).outcome is Outcome.OK


# --- when the sandbox itself fails ---------------------------------------------------------------------------------


@needs_all
def test_a_sandbox_that_dies_says_so_and_starts_again() -> None:
    with Sandbox() as one:
        one.run("")
        assert one._process is not None
        one._process.kill()
        with pytest.raises(SandboxError, match="sandbox failed"):
            one.run("")
        assert one.run("print(2)").stdout == "2\n"


@needs_all
@pytest.mark.parametrize("program", ["", "import time; time.sleep(100)"])
def test_nothing_outlives_a_caller_that_is_killed(program: str) -> None:
    source = f"""
        import threading, time
        from aha.reward.sandbox import Limits, Sandbox
        box = Sandbox()
        box.run("")
        print(box._process.pid, flush=True)
        box.run({program!r}, limits=Limits(wall_seconds=2))
        time.sleep(100)"""
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1])}
    caller = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, text=True, env=environment
    )
    with caller:
        assert caller.stdout is not None
        outer = int(caller.stdout.readline())
        time.sleep(0.2)
        tree = {outer, *descendants(outer)}
        assert len(tree) >= 2
        caller.kill()
    deadline = time.monotonic() + 20
    while (left := {pid for pid in tree if is_running(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_all
def test_closing_ends_everything() -> None:
    one = Sandbox()
    one.run("")
    assert one._process is not None
    tree = {one._process.pid, *descendants(one._process.pid)}
    one.close()
    deadline = time.monotonic() + 10
    while any(map(is_running, tree)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_running, tree))


@needs_all
@pytest.mark.parametrize("minimum", ["namespaces", "seccomp", "rlimits"])
def test_closing_ends_a_program_behind_any_layers(minimum: Minimum, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = {"namespaces": (), "seccomp": ("namespaces",), "rlimits": ("namespaces", "seccomp")}[minimum]
    fake_layers(monkeypatch, **dict.fromkeys(left_out, "faked"))
    one = Sandbox(minimum=minimum)
    one.run("")
    assert one._process is not None
    root = one._process.pid
    idle = len(descendants(root))

    def wait() -> None:
        with pytest.raises(SandboxError):
            one.run("import time; time.sleep(60)", limits=Limits(wall_seconds=4))

    waiting = threading.Thread(target=wait)
    waiting.start()
    tree: set[int] = set()
    while len(tree) < idle + 2 and waiting.is_alive():  # the watcher and the program
        tree = {*descendants(root)}
    one.close()
    deadline = time.monotonic() + 5
    while any(map(is_running, tree)) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = {pid for pid in tree if is_running(pid)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    waiting.join()
    assert not left


# --- layers --------------------------------------------------------------------------------------------------------


def fake_layers(monkeypatch: pytest.MonkeyPatch, **missing: str) -> None:
    layers = tuple(Layer(layer.name, missing.get(layer.name, layer.missing)) for layer in find_layers())
    monkeypatch.setattr(sandbox, "find_layers", lambda: layers)


def test_without_a_layer_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_layers(monkeypatch, rlimits="", seccomp="", namespaces="unshare: Operation not permitted")
    with pytest.raises(SandboxRefused) as refused:
        Sandbox()
    message = str(refused.value)
    assert "active: rlimits, seccomp" in message
    assert "namespaces (no files but Python's, no other processes, a private /tmp): unshare: Operation not" in message
    assert "minimum='seccomp'" in message
    assert isinstance(refused.value, AhaError)
    assert check_layers("seccomp") == ("rlimits", "seccomp")
    assert check_layers("rlimits") == ("rlimits", "seccomp")
    fake_layers(monkeypatch, rlimits="", seccomp="no filter", namespaces="")
    with pytest.raises(SandboxRefused, match=r"(?s)active: rlimits, namespaces.*seccomp .*: no filter.*'rlimits'"):
        check_layers()
    fake_layers(monkeypatch, rlimits="none", seccomp="none", namespaces="none")
    with pytest.raises(SandboxRefused, match=r"(?s)active: none.*nothing is left here"):
        check_layers("rlimits")


@needs_limits
@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux alone")
def test_limits_alone_still_end_and_clear_away_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_layers(monkeypatch, seccomp="faked", namespaces="faked")
    minimum: Minimum = "rlimits"
    daemon = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
        print(os.getcwd())"""
    with Sandbox(minimum=minimum) as one:
        assert one.run("print(input())", stdin="x").stdout == "x\n"
        result = one.run(textwrap.dedent(daemon), limits=LIMITS)
        folder = Path(result.stdout.strip())
        assert folder.name.startswith("aha-program-")
        assert not folder.exists()
        assert one._process is not None
        assert not descendants(one._process.pid)
        assert one.run("while True: pass", limits=LIMITS).outcome is Outcome.TIMEOUT
        assert one.run("x = bytes(10 * 2**30)", limits=LIMITS).outcome is Outcome.MEMORY
        assert one.test("def f(x): return x", tests=["assert f(3) == 3"]).failures == ()


@needs_all
def test_the_filter_alone_allows_one_process_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_layers(monkeypatch, namespaces="faked")
    with Sandbox(minimum="seccomp") as one:
        for source in (
            "import os; os.fork()",
            "import socket; socket.socket()",
            f"import os; os.kill({os.getpid()}, {signal.SIGTERM})",
            "import os; os.execv('/bin/true', ['true'])",
        ):
            assert "PermissionError" in one.run(source).stderr
        threads = "import threading; t = threading.Thread(target=print, args=(7,)); t.start(); t.join()"
        assert one.run(threads).stdout == "7\n"


def execute(code: bytes, *, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """A small machine for classic BPF: what the filter returns for one system call."""
    words = [number, architecture, 0, 0]
    for argument in (*arguments, *[0] * (6 - len(arguments))):
        words += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    place, held = 0, 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("HBBI", code, place * 8)
        place += 1
        if operation == 0x20:
            held = words[value // 4]
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[operation]
            place += if_true if holds else if_false


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_the_filter_of_each_architecture(machine: str, column: int) -> None:
    allow, eperm, enosys, enotty, kill = 0x7FFF0000, 0x50001, 0x50026, 0x50019, 0x80000000
    _, audit = confine._ARCHITECTURES[machine]
    code = confine._filter(1234, column, audit)

    def verdict(numbers: tuple[int, int], *arguments: int) -> int:
        return execute(code, architecture=audit, number=numbers[column], arguments=arguments)

    assert execute(code, architecture=0x40000003, number=0) == kill  # 32-bit calls have other numbers
    assert verdict((0, 63)) == verdict((1, 64)) == verdict((9, 222)) == verdict((231, 94)) == allow
    assert verdict((41, 198)) == verdict((101, 117)) == verdict((59, 221)) == verdict((165, 40)) == eperm
    assert verdict((272, 97)) == verdict((319, 279)) == verdict((425, 425)) == verdict((310, 270)) == eperm
    assert verdict((56, 220), 0x3D0F00) == allow  # a thread, as libc makes it
    assert verdict((56, 220), 17) == verdict((56, 220), 0x10000011) == eperm  # fork; a user namespace
    assert verdict((435, 435)) == enosys
    assert verdict((62, 129), 1234, 9) == verdict((234, 131), 1234, 1234, 6) == allow
    assert verdict((62, 129), 1, 9) == verdict((62, 129), 2**64 - 1, 9) == verdict((234, 131), 1, 1, 9) == eperm
    assert verdict((302, 261), 0, 7) == allow
    assert verdict((302, 261), 1, 7) == eperm
    assert verdict((157, 167), 15) == allow
    assert verdict((157, 167), 22, 2) == verdict((157, 167), 38) == eperm
    assert verdict((72, 25), 0, 3) == allow
    assert verdict((72, 25), 0, 8, 1) == verdict((72, 25), 0, 10) == eperm
    assert verdict((16, 29), 0, 0x5401) == allow
    assert verdict((16, 29), 0, 0x5412) == enotty  # TIOCSTI types into a terminal
    if machine == "x86_64":
        assert execute(code, architecture=audit, number=0x40000000 | 39) == eperm


def test_the_tables_agree_with_the_kernel_headers() -> None:
    headers = {
        0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        1: Path("/usr/include/asm-generic/unistd.h"),
    }
    for column, header in headers.items():
        if not header.exists():
            pytest.skip(f"{header} is not installed")
        numbers = {}
        for line in header.read_text().splitlines():
            words = line.split()
            if len(words) >= 3 and words[0] == "#define" and words[1].startswith("__NR") and words[2].isdigit():
                numbers[words[1].removeprefix("__NR3264_").removeprefix("__NR_")] = int(words[2])
        for entry in confine._ALLOWED.split(";"):
            name, *ours = entry.split()
            alias = "fstatat" if column == 1 and name == "newfstatat" else name
            assert ours[column] == str(numbers.get(alias, "-")), name
