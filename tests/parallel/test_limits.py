"""Limits of control groups, as files of both versions, and what is sized by them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xkd.parallel.limits import cores, free_memory, memory

HERE = len(os.sched_getaffinity(0))
V2 = "0::/kubepods/pod1/main\n"
V1 = "5:memory:/kubepods/pod1\n2:cpu,cpuacct:/kubepods/pod1\n1:name=systemd:/\n0::/\n"


def groups(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "membership").write_text(membership)
    return folder / "membership", folder / "cgroup"


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        (V2, {"kubepods/pod1/main/cpu.max": "100000 100000\n"}),
        (V2, {"kubepods/pod1/main/cpu.max": "max 100000\n", "kubepods/pod1/cpu.max": "150000 100000\n"}),
        (V2, {"kubepods/pod1/main/cpu.max": "50000 100000\n"}),  # less than a core
        ("0::/\n", {"cpu.max": "100000 100000\n"}),  # the container's own namespace
        (V2, {"cpu.max": "100000 100000\n"}),  # the path is the host's
        (V1, {f"cpu,cpuacct/kubepods/pod1/cpu.cfs_{name}_us": "100000\n" for name in ("quota", "period")}),
        (V1, {f"cpu/cpu.cfs_{name}_us": "100000\n" for name in ("quota", "period")}),
    ],
)
def test_a_quota_of_a_core_is_a_core(membership: str, files: dict[str, str], tmp_path: Path) -> None:
    assert cores(*groups(tmp_path, membership, files)) == 1


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        (V2, {"kubepods/pod1/main/cpu.max": "max 100000\n"}),
        (V2, {"kubepods/pod1/main/cpu.max": "9999999999 100000\n"}),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}),
        ("", {}),
    ],
)
def test_without_a_quota_the_affinity_counts(membership: str, files: dict[str, str], tmp_path: Path) -> None:
    assert cores(*groups(tmp_path, membership, files)) == HERE


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        (V2, {"kubepods/pod1/main/memory.max": "max\n", "kubepods/pod1/memory.max": "1048576\n"}),
        (V1, {"memory/kubepods/pod1/memory.limit_in_bytes": "1048576\n"}),
    ],
)
def test_the_smallest_limit_of_memory_counts(membership: str, files: dict[str, str], tmp_path: Path) -> None:
    assert memory(*groups(tmp_path, membership, files)) == 2**20


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    unlimited = {"memory/memory.limit_in_bytes": "9223372036854771712\n"}
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory(*groups(tmp_path, V1, unlimited)) == here


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        (
            V2,
            {
                "kubepods/pod1/memory.max": "1000\n",
                "kubepods/pod1/memory.current": "900\n",
                "kubepods/pod1/memory.stat": "file 300\nshmem 70\nactive_file 30\ninactive_file 200\n",
            },
        ),
        (
            V1,
            {
                "memory/kubepods/pod1/memory.limit_in_bytes": "1000\n",
                "memory/kubepods/pod1/memory.usage_in_bytes": "900\n",
                "memory/kubepods/pod1/memory.stat": (
                    "active_file 7\ninactive_file 8\ntotal_inactive_file 200\ntotal_active_file 30\n"
                ),
            },
        ),
    ],
)
def test_the_cache_of_files_is_free_but_what_processes_use_is_not(
    membership: str, files: dict[str, str], tmp_path: Path
) -> None:
    where = groups(tmp_path, membership, files)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 5 kB\n")
    assert free_memory(*where, tmp_path / "meminfo") == 1000 - 900 + 230
    (tmp_path / "meminfo").write_text("MemAvailable: 0 kB\n")  # the machine has less than the group
    assert free_memory(*where, tmp_path / "meminfo") == 0
    assert 0 < free_memory() <= memory()


def test_an_affinity_of_one_core_means_one_thread_everywhere() -> None:
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch, numpy, threadpoolctl
torch.set_num_threads(3)
from xkd.parallel.threads import limit_threads
limit_threads()
pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
assert torch.get_num_threads() == 1 and set(pools) == {1}, (torch.get_num_threads(), pools)
from xkd.data.shards.prepare import PrepareConfig
assert PrepareConfig().workers == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_counts_cores_in_another_way() -> None:
    root = Path(__file__).resolve().parents[2] / "xkd"
    names = ("cpu_count", "sched_getaffinity")
    found = {f.name for f in root.rglob("*.py") if any(name in f.read_text() for name in names)}
    assert found == {"limits.py"}
