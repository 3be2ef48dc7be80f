"""How much memory this process may still take: what the machine has free, or less where a control group limits it."""

from __future__ import annotations

import contextlib
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes, or ``None`` where the system does not say (it is no Linux). ``root`` is where ``proc`` and ``sys`` are.

    The page cache counts as free: the system gives it up when it is asked for more.
    """
    meminfo = _numbers(root / "proc/meminfo")
    if "MemAvailable:" not in meminfo:
        return None
    return max(0, min([meminfo["MemAvailable:"] * 1024, *_left_in_groups(root)]))


def total_memory(root: Path = Path("/")) -> int | None:
    """Bytes that the machine has, or fewer where a control group (a container) limits them; ``None`` as above. What
    else runs does not change it."""
    meminfo = _numbers(root / "proc/meminfo")
    if "MemTotal:" not in meminfo:
        return None
    return min([meminfo["MemTotal:"] * 1024, *(limit for _, limit, _ in _groups(root))])


def _left_in_groups(root: Path) -> list[int]:
    return [
        limit - used + _numbers(folder / "memory.stat").get("inactive_file", 0)
        for folder, limit, used in _groups(root)
    ]


def _groups(root: Path) -> list[tuple[Path, int, int]]:
    """Each control group that limits this process, its limit, and what it uses: version 2, else version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        limit, used = "memory.max", "memory.current"
        if controllers:
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        own = top / path.strip("/")
        for folder in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or no limit ("max")
                found.append((folder, int((folder / limit).read_text()), int((folder / used).read_text())))
            if folder == top:
                break
    return found


def _numbers(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for line in lines if len(words := line.split()) > 1 and words[1].isdigit()}
