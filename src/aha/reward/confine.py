"""The walls around an untrusted program, built from the inside with the standard library alone: namespaces, a seccomp
filter, resource limits. Linux on x86_64 or aarch64; each wall raises ``OSError`` with its reason where it cannot stand.

The policy is ONE process that reads its input, computes, writes its output and files of its own: no new process, no new
program, no network, no signals to others. The rest follows: with one process the memory limit of a process is the limit
of the program, and nothing can be left behind.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import resource
import struct
import sys
from pathlib import Path

NOBODY = 65534
STDIN = "/dev/stdin"  # elsewhere a link into /proc, which the new root does not have
SCRATCH_BYTES = 64 * 2**20  # the private /tmp, and the largest file
SCRATCH_FILES = 4096
MAX_OPEN_FILES = 64
MAX_THREADS = 64
STACK_BYTES = 64 * 2**20

# --- seccomp -------------------------------------------------------------------------------------------------------
# What a Python program of one process needs, as "name x86_64 aarch64" ("-" where an architecture has no such call).
# Everything that is not named here fails with EPERM: socket, ptrace, process_vm_*, mount, unshare, setns, bpf, keyctl,
# io_uring_*, userfaultfd, perf_event_open, personality, execve, fork, memfd_create, shmget, setsid and what the next
# kernel brings.
_ALLOWED = """
read 0 63; write 1 64; open 2 -; close 3 57; stat 4 -; fstat 5 80; lstat 6 -; poll 7 -; lseek 8 62; mmap 9 222;
mprotect 10 226; munmap 11 215; brk 12 214; rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139;
pread64 17 67; pwrite64 18 68; readv 19 65; writev 20 66; access 21 -; pipe 22 -; select 23 -; sched_yield 24 124;
mremap 25 216; msync 26 227; madvise 28 233; dup 32 23; dup2 33 -; pause 34 -; nanosleep 35 101; getitimer 36 102;
alarm 37 -; setitimer 38 103; getpid 39 172; sendfile 40 71; exit 60 93; wait4 61 260; uname 63 160; flock 73 32;
fsync 74 82; fdatasync 75 83; truncate 76 45; ftruncate 77 46; getdents 78 -; getcwd 79 17; chdir 80 49; fchdir 81 50;
rename 82 -; mkdir 83 -; rmdir 84 -; creat 85 -; link 86 -; unlink 87 -; symlink 88 -; readlink 89 -; chmod 90 -;
fchmod 91 52; umask 95 166; gettimeofday 96 169; getrlimit 97 163; getrusage 98 165; sysinfo 99 179; times 100 153;
getuid 102 174; getgid 104 176; geteuid 107 175; getegid 108 177; getppid 110 173; getpgrp 111 -; getpgid 121 155;
getsid 124 156; getgroups 115 158; getresuid 118 148; getresgid 120 150; rt_sigpending 127 136; rt_sigtimedwait 128 137;
rt_sigsuspend 130 133; sigaltstack 131 132; utime 132 -; statfs 137 43; fstatfs 138 44; arch_prctl 158 -;
setrlimit 160 164; gettid 186 178; time 201 -; futex 202 98; sched_getaffinity 204 123; getdents64 217 61;
set_tid_address 218 96; restart_syscall 219 128; fadvise64 221 223; clock_gettime 228 113; clock_getres 229 114;
clock_nanosleep 230 115; exit_group 231 94; epoll_wait 232 -; epoll_ctl 233 21; utimes 235 -; waitid 247 95;
openat 257 56; mkdirat 258 34; newfstatat 262 79; unlinkat 263 35; renameat 264 38; linkat 265 37; symlinkat 266 36;
readlinkat 267 78; fchmodat 268 53; faccessat 269 48; pselect6 270 72; ppoll 271 73; set_robust_list 273 99;
get_robust_list 274 100; utimensat 280 88; epoll_pwait 281 22; fallocate 285 47; eventfd2 290 19; epoll_create1 291 20;
dup3 292 24; pipe2 293 59; preadv 295 69; pwritev 296 70; getcpu 309 168; renameat2 316 276; getrandom 318 278;
membarrier 324 283; copy_file_range 326 285; preadv2 327 286; pwritev2 328 287; statx 332 291; rseq 334 293;
close_range 436 436; faccessat2 439 439; epoll_pwait2 441 441
"""
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH_*
_CLONE, _CLONE3, _KILL, _TGKILL, _PRCTL, _PRLIMIT, _FCNTL, _IOCTL = (
    (56, 220), (435, 435), (62, 129), (234, 131), (157, 167), (302, 261), (72, 25), (16, 29),
)  # fmt: skip
_CLONE_THREAD = 0x10000
_PR_SET_NAME = 15
_FCNTL_SIGNALS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a way to send signals
_IOCTLS = (0x5401, 0x5421, 0x541B, 0x5450, 0x5451)  # TCGETS (isatty), FIONBIO, FIONREAD, FIONCLEX, FIOCLEX

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data; of arguments, the low half
_X32 = 0x40000000  # a second table of system calls on x86_64


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


@functools.cache
def _allowed(column: int) -> bytes:
    numbers = [entry.split()[1 + column] for entry in _ALLOWED.split(";")]
    allow = _op(_RETURN, _ALLOW)
    return b"".join(_op(_JUMP_EQUAL, int(number), 0, 1) + allow for number in numbers if number != "-")


def _filter(pid: int, column: int, architecture: int) -> bytes:
    """The filter as instructions of classic BPF. ``pid`` is the only process that may be sent a signal: itself."""
    allow, fail = _op(_RETURN, _ALLOW), _op(_RETURN, _FAIL | errno.EPERM)

    def when(call: tuple[int, int], body: list[bytes]) -> list[bytes]:
        return [_op(_JUMP_EQUAL, call[column], 0, len(body)), *body]

    def argument(offset: int, values: tuple[int, ...], found: bytes, other: bytes) -> list[bytes]:
        tests = [op for value in values for op in (_op(_JUMP_EQUAL, value, 0, 1), found)]
        return [_op(_LOAD, offset), *tests, other]

    program = [_op(_LOAD, _ARCHITECTURE), _op(_JUMP_EQUAL, architecture, 1, 0), _op(_RETURN, _KILL_PROCESS)]
    program += [_op(_LOAD, _NUMBER), _op(_JUMP_AT_LEAST, _X32, 0, 1), fail]
    program.append(_allowed(column))
    program += when(_CLONE, [_op(_LOAD, _FIRST), _op(_JUMP_BITS, _CLONE_THREAD, 0, 1), allow, fail])
    program += when(_CLONE3, [_op(_RETURN, _FAIL | errno.ENOSYS)])  # its flags lie in memory: libc then uses clone
    for call in (_KILL, _TGKILL):
        program += when(call, argument(_FIRST, (pid,), allow, fail))
    program += when(_PRLIMIT, argument(_FIRST, (0,), allow, fail))
    program += when(_PRCTL, argument(_FIRST, (_PR_SET_NAME,), allow, fail))
    program += when(_FCNTL, argument(_SECOND, _FCNTL_SIGNALS, fail, allow))
    program += when(_IOCTL, argument(_SECOND, _IOCTLS, allow, _op(_RETURN, _FAIL | errno.ENOTTY)))
    return b"".join([*program, fail])


_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SECCOMP_MODE_FILTER = 2


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install_filter() -> None:
    """From here on this process may only do what ``_ALLOWED`` says, for ever, and gain no rights by running a file."""
    if platform.machine() not in _ARCHITECTURES or sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"no filter for {sys.platform} on {platform.machine()}")
    code = _filter(os.getpid(), *_ARCHITECTURES[platform.machine()])
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    program = _SockFprog(len(code) // 8, code)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


# --- resource limits -----------------------------------------------------------------------------------------------


def limit_resources(*, seconds: int, memory: int, processes: int | None) -> None:
    """``seconds`` of CPU time, ``memory`` in bytes of address space; no core files, small files, few open ones.

    ``processes`` counts all of this user's that the kernel sees, threads included; ``None``: no limit.
    """
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),  # at the first SIGXCPU, which a program may ignore, then SIGKILL
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_FSIZE: (SCRATCH_BYTES, SCRATCH_BYTES),
        resource.RLIMIT_NOFILE: (MAX_OPEN_FILES, MAX_OPEN_FILES),
        resource.RLIMIT_STACK: (STACK_BYTES, STACK_BYTES),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    if processes is not None:
        limits[resource.RLIMIT_NPROC] = (processes, processes)
    for which, (soft, hard) in limits.items():
        _, ceiling = resource.getrlimit(which)
        if ceiling != resource.RLIM_INFINITY:  # the caller's own limit may be lower
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        try:
            resource.setrlimit(which, (soft, hard))
        except ValueError as error:
            raise OSError(errno.EINVAL, f"resource limit {which}: {error}") from None


# --- namespaces ----------------------------------------------------------------------------------------------------
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_AT_FDCWD, _AT_RECURSIVE, _AT_EMPTY_PATH = -100, 0x8000, 0x1000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_SYS_PIVOT_ROOT, _SYS_CAPSET = (155, 41), (126, 91)
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = (428, 428), (429, 429), (442, 442)  # Linux 5.12
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/etc/ld.so.cache")


def enter_namespaces() -> None:
    """User, mount, PID, network, IPC and host name of its own; a root that holds the Python library and the system's
    libraries, read-only, and nothing else. The PID namespace begins with the next child, which is its process 1.

    A caller that is root becomes nobody; another keeps its own rights on files, of which it sees none.
    """
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no namespaces for {sys.platform} on {platform.machine()}")
    is_root = os.geteuid() == 0
    _unshare_as_nobody(is_root=is_root)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _build_root("/proc", is_root=is_root)  # exists everywhere, and holds no file that the new root needs


def mount_scratch() -> None:
    """A fresh and empty /tmp of limited size, in memory; an empty file of it is to be seen as STDIN alone."""
    options = f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES},mode=1777"
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    Path("/tmp/stdin").touch()
    _mount("/tmp/stdin", STDIN, None, _MS_BIND)
    os.unlink("/tmp/stdin")


def unmount_scratch() -> None:
    for path in (STDIN, "/tmp"):
        _check(_libc().umount2(os.fsencode(path), _MNT_DETACH), f"umount {path}")


def drop_capabilities() -> None:
    """Gives up every right of the namespace's owner: to mount, to change user, to look into other processes."""
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    _syscall(_SYS_CAPSET, header, ctypes.create_string_buffer(24))


def die_with_parent(signal: int) -> None:
    """This process gets ``signal`` when the one that has forked it ends; on Linux alone."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal)


def adopt_orphans() -> None:
    """Processes that a descendant leaves behind become children of this one."""
    _prctl(_PR_SET_SUBREAPER, 1)


def _unshare_as_nobody(*, is_root: bool) -> None:
    user, group = os.geteuid(), os.getegid()
    ready, go = os.pipe()
    helper = os.fork() if is_root else None
    if helper == 0:  # only a process outside can map a user other than the caller
        try:
            os.close(go)
            os.read(ready, 1)
            for kind in ("uid_map", "gid_map"):
                Path(f"/proc/{os.getppid()}/{kind}").write_text(f"{NOBODY} {NOBODY} 1")
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    try:
        _check(_libc().unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS), "unshare")
    finally:
        os.close(go)
        os.close(ready)
        if helper is not None:
            code = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if is_root:
        if code:
            raise OSError(code, f"mapping root to nobody: {os.strerror(code)}")
    else:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")


def _build_root(place: str, *, is_root: bool) -> None:
    """Fills a new root at ``place``, becomes nobody, makes it the root and lets go of the old one.

    What to show is cloned first: nobody may not look into a folder of root's in which Python may lie.
    """
    paths = _readable_paths()
    shown = {path: _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NOEXEC for path in _DEVICES}
    for path in sorted(os.path.realpath(path) for path in paths):
        if not any(path.startswith(parent + "/") for parent in shown):
            shown[path] = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV
    links = {path: os.path.realpath(path) for path in paths if os.path.realpath(path) != path}
    trees = [(path, os.path.isdir(path), _clone_tree(path, attributes)) for path, attributes in shown.items()]
    if is_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    os.chdir(place)
    for path, is_folder, tree in trees:
        target = path.lstrip("/")
        os.makedirs(target if is_folder else os.path.dirname(target), exist_ok=True)
        if not is_folder:
            Path(target).touch()
        _syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)
    for path, real in links.items():  # /lib is often a link to /usr/lib
        if not os.path.lexists(path.lstrip("/")):
            os.makedirs(os.path.dirname(path.lstrip("/")) or ".", exist_ok=True)
            os.symlink(real, path.lstrip("/"))
    Path(STDIN.lstrip("/")).touch()
    os.makedirs("tmp", exist_ok=True)
    _syscall(_SYS_PIVOT_ROOT, b".", b".")  # the old root now lies on top of the new one
    _check(_libc().umount2(b".", _MNT_DETACH), "umount of the old root")
    os.chdir("/")
    _set_attributes(_AT_FDCWD, "/", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, flags=0)


def _readable_paths() -> list[str]:
    """What a program may read: Python's own library without the user's packages, and the system's libraries."""
    own = {os.path.dirname(os.__file__), sys.base_prefix + "/lib", sys.base_exec_prefix + "/lib"}
    return sorted(path for path in (*own, *_LIBRARIES) if os.path.exists(path))


def _clone_tree(path: str, attributes: int) -> int:
    """A copy of the mounts at ``path`` that hangs nowhere yet, as a file descriptor."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    tree = _syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    _set_attributes(tree, "", attributes, flags=_AT_RECURSIVE | _AT_EMPTY_PATH)
    return tree


def _set_attributes(folder: int, path: str, attributes: int, *, flags: int) -> None:
    value = ctypes.create_string_buffer(struct.pack("QQQQ", attributes, 0, 0, 0))
    _syscall(_SYS_MOUNT_SETATTR, folder, os.fsencode(path), flags, value, 32)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, options)]
    _check(_libc().mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def _prctl(option: int, second: int, third: int = 0) -> None:
    arguments = [ctypes.c_ulong(value) for value in (second, third, 0, 0)]
    _check(_libc().prctl(option, *arguments), f"prctl {option}")


def _syscall(call: tuple[int, int], *arguments: object) -> int:
    number = call[_ARCHITECTURES[platform.machine()][0]]
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return _check(_libc().syscall(ctypes.c_long(number), *words), f"system call {number}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
