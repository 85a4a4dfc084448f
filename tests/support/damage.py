"""Seeded damage to files, as disks, networks and people do it."""

import random
import struct
from collections.abc import Sequence
from itertools import pairwise

_EXTREMES = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)


def damaged(content: bytes, places: Sequence[range], seed: int) -> bytes:
    """Return a file with a few faults in `places`, the parts of it that describe the rest.

    Equal seeds give equal faults.
    """
    source = random.Random(seed)
    changed = bytearray(content)
    for _ in range(source.choice((1, 1, 1, 2, 5))):
        at = source.choice(source.choice(places))
        kind = source.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([source.randrange(256)])
        elif kind == 1:
            changed[at : at + 1] = bytes([changed[min(at, len(changed) - 1)] ^ 1 << source.randrange(8)])
        elif kind == 2:
            size = source.choice((2, 4, 8))
            changed[at : at + size] = struct.pack("<Q", source.choice(_EXTREMES))[:size]
        elif kind == 3:
            del changed[at : at + source.choice((1, 4, 100))]
        elif kind == 4:
            changed[at:at] = bytes(source.randrange(256) for _ in range(source.choice((1, 4, 100))))
        else:
            first = source.choice(source.choice(places))
            changed[at : at + 8] = content[first : first + 8]
        if not changed:
            break
    return bytes(changed[: source.randrange(len(changed))] if changed and source.random() < 0.05 else changed)


def gaps(spans: Sequence[tuple[int, int]], size: int) -> list[range]:
    """Return what lies between spans (start, end) of a file of `size` bytes."""
    edges = [(0, 0), *sorted(spans), (size, size)]
    return [range(end, start) for (_, end), (start, _) in pairwise(edges) if end < start]
