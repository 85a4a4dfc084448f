"""Count the processors that this process may use: not all of the host's, where a container has a part of them."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available_processors(root: Path = Path("/")) -> int:
    """Return how many processors this process may keep busy, at least 1.

    That is the number that it may run on, or its cgroup's share of processor time (`cpu.max`, or the CFS quota of
    cgroup v1) rounded up, whichever is smaller. `root` is the root of the file system.
    """
    quotas = [math.ceil(quota) for quota in _cgroup_quotas(root)]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """Yield the shares, in processors, to which this process's cgroup and those around it are limited.

    A container may see its own cgroup as the root of the hierarchy, or a path of the host that does not exist in it.
    Every folder on the path is therefore tried. Source: Linux, Documentation/admin-guide/cgroup-v2.rst and
    Documentation/scheduler/sched-bwc.rst.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", maxsplit=2)
        own = PurePosixPath(path.removeprefix("/"))
        for place in (own, *own.parents):
            if not controllers:
                yield from _quota(_read(mount / place / "cpu.max"))
            elif "cpu" in controllers.split(","):
                folder = mount / "cpu" / place
                yield from _quota(f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}")


def _quota(text: str) -> Iterator[float]:
    """Yield a share, given as microseconds of processor time and of real time, unless it is unlimited or missing."""
    match text.split():
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _read(path: Path) -> str:
    """Return the content of a file, or nothing if it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
