"""How much memory this process may still take: what the machine has free, or less where a control group limits it."""

from __future__ import annotations

from pathlib import Path


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes, or ``None`` where the system does not say (it is no Linux). ``root`` is where ``proc`` and ``sys`` are.

    The page cache counts as free: the system gives it up when it is asked for more.
    """
    meminfo = _numbers(root / "proc/meminfo")
    if "MemAvailable:" not in meminfo:
        return None
    return max(0, min([meminfo["MemAvailable:"] * 1024, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> list[int]:
    """What each control group that this process is in has left: version 2, else version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
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
            try:
                room = int((folder / limit).read_text()) - int((folder / used).read_text())
            except (OSError, ValueError):  # no such file, or no limit ("max")
                room = None
            if room is not None:
                left.append(room + _numbers(folder / "memory.stat").get("inactive_file", 0))
            if folder == top:
                break
    return left


def _numbers(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for line in lines if len(words := line.split()) > 1 and words[1].isdigit()}
