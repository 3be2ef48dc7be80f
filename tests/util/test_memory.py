from __future__ import annotations

from pathlib import Path

from aha.util.memory import available_memory, total_memory


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_proc_nobody_knows(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None is total_memory(tmp_path)


def test_what_is_left_is_the_least_of_the_machine_and_every_group_around(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:  5000 kB\n")
    assert available_memory(tmp_path) == 5_000 * 1024
    write(tmp_path / "proc/self/cgroup", "0::/outer/inner\n")
    groups = tmp_path / "sys/fs/cgroup"
    write(groups / "outer/inner/memory.max", "max\n")
    write(groups / "outer/inner/memory.current", "70000\n")
    assert available_memory(tmp_path) == 5_000 * 1024
    assert total_memory(tmp_path) == 9_000 * 1024
    write(groups / "outer/memory.max", "100000\n")
    write(groups / "outer/memory.current", "80000\n")
    assert available_memory(tmp_path) == 20_000 and total_memory(tmp_path) == 100_000
    write(groups / "outer/memory.stat", "anon 50000\ninactive_file 6000\n")  # the system takes that back
    assert available_memory(tmp_path) == 26_000
    write(groups / "outer/memory.current", "110000\n")
    write(groups / "outer/memory.stat", "")
    assert available_memory(tmp_path) == 0


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemAvailable:  5000 kB\n")
    write(tmp_path / "proc/self/cgroup", "5:cpu:/a\n4:memory:/a\n")
    write(tmp_path / "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9000")
    write(tmp_path / "sys/fs/cgroup/memory/a/memory.usage_in_bytes", "2000")
    assert available_memory(tmp_path) == 7_000
