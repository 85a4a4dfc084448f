"""Processes as Linux shows them."""

from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started, in any of its threads."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
