"""The processors that a process may use: its affinity, and the share of its cgroup."""

import os
from pathlib import Path

import pytest

from handler.engine.processors import available_processors


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def host(root: Path, cgroup: str, **files: str) -> Path:
    """Write what Linux shows of a process's cgroup; `files` are contents by path, in which `__` stands for `/`."""
    contents = {"proc/self/cgroup": cgroup} | {
        f"sys/fs/cgroup/{name.replace('__', '/')}": content for name, content in files.items()
    }
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_without_a_cgroup_it_is_the_affinity(tmp_path: Path) -> None:
    assert available_processors(tmp_path) == 8


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("300000 100000", 3), ("250000 100000", 3), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8)],
)
def test_the_share_of_a_container_limits_it(tmp_path: Path, quota: str, expected: int) -> None:
    root = host(tmp_path, "0::/\n", **{"cpu.max": f"{quota}\n"})
    assert available_processors(root) == expected


def test_the_smallest_share_on_the_path_counts(tmp_path: Path) -> None:
    shares = {"a__cpu.max": "200000 100000", "a__b__cpu.max": "max 100000", "a__b__c__cpu.max": "400000 100000"}
    assert available_processors(host(tmp_path, "0::/a/b/c\n", **shares)) == 2


def test_a_path_of_the_host_that_the_container_does_not_show_is_its_root(tmp_path: Path) -> None:
    root = host(tmp_path, "0::/kubepods/pod1/abc\n", **{"cpu.max": "200000 100000"})
    assert available_processors(root) == 2


def test_the_quota_of_the_first_version_counts(tmp_path: Path) -> None:
    quota = {"cpu__pod__cpu.cfs_quota_us": "200000\n", "cpu__pod__cpu.cfs_period_us": "100000\n"}
    root = host(tmp_path, "5:memory:/pod\n4:cpu,cpuacct:/pod\n0::/\n", **quota)
    assert available_processors(root) == 2


@pytest.mark.parametrize("quota", ["-1", "", "0 0", "x"])
def test_what_is_no_quota_is_none(tmp_path: Path, quota: str) -> None:
    files = {"cpu__cpu.cfs_quota_us": quota, "cpu__cpu.cfs_period_us": "100000", "cpu.max": quota}
    assert available_processors(host(tmp_path, "1:cpu:/\n0::/\n", **files)) == 8
