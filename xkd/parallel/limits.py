"""The share of the machine that this process may use: a container sees all cores and all memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_USAGE = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
"""Files with a limit of memory, in version 2 and 1 of control groups, and with the use that it limits."""


def cores(membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use, at least one.

    It is the smallest of the machine's cores, the affinity, and the quotas of the control groups (cgroups) of
    version 2 (``cpu.max``) or 1 (``cpu.cfs_quota_us``), by which containers have a limit.

    Args:
        membership: the process's groups, see cgroups(7).
        root: where the groups are mounted.
    """
    limits = [float(len(os.sched_getaffinity(0)))]
    for group in _groups("cpu", membership, root):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        quota = quota or _read(group / "cpu.cfs_quota_us")
        period = period or _read(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():  # neither "max" nor -1
            limits.append(int(quota) / int(period))
    return max(1, int(min(limits)))


def memory(membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process's control groups may use; arguments as of `cores`."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    return min(limits + [limit for _, _, limit in _memory_limits(membership, root)])


def free_memory(membership: Path = _MEMBERSHIP, root: Path = _ROOT, meminfo: Path = _MEMINFO) -> int:
    """Return the bytes of memory that this process can still get; arguments as of `cores`, and /proc/meminfo.

    The cache of files, which Linux gives up for a process that needs memory, counts as free, swap does not.
    """
    free = [1024 * value for name, value in _numbers(meminfo) if name == "MemAvailable:"]
    for group, name, limit in _memory_limits(membership, root):
        used = _read(group / _USAGE[name])
        statistics = dict(_numbers(group / "memory.stat"))
        # Version 1 has the sums over the groups below by other names. Shared memory is on neither list.
        names = ("active_file", "inactive_file")
        cache = sum(statistics.get(f"total_{name}", statistics.get(name, 0)) for name in names)
        free.append(limit - (int(used) if used.isdecimal() else 0) + cache)
    return max(0, min(free, default=memory(membership, root)))


def _memory_limits(membership: Path, root: Path) -> Iterator[tuple[Path, str, int]]:
    """Yield the groups that limit memory, with the file that does and the bytes."""
    for group in _groups("memory", membership, root):
        for name in _USAGE:
            limit = _read(group / name)
            if limit.isdecimal():
                yield group, name, int(limit)


def _numbers(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the names and numbers of a file with a pair a line."""
    for words in map(str.split, _read(file).splitlines()):
        if len(words) > 1 and words[1].isdecimal():
            yield words[0], int(words[1])


def _groups(controller: str, membership: Path, root: Path) -> Iterator[Path]:
    """Yield the directories of a process's groups and of their parents, whose limits apply too.

    Inside a container the path of a group may be that of the host, which is not mounted: the mount's root is
    then the container's own group.
    """
    for line in _read(membership).splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        # Version 2 has one hierarchy without names; next to version 1 it is mounted below.
        for mount in (root / names, root / controller) if names else (root, root / "unified"):
            group = mount / path.lstrip("/")
            yield from (parent for parent in (group, *group.parents) if parent.is_relative_to(mount))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
