"""Real speech with known words: 32 clips of LJ Speech and one of an address of 1961, both in the public domain."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

FOLDER = Path(__file__).parent.parent / "assets/clips"


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip, and what is said in it."""

    path: Path
    samples: NDArray[np.float32]  # [n] at 16 kHz
    text: str


@cache
def clips() -> tuple[Clip, ...]:
    """Return all clips."""
    rows = json.loads((FOLDER / "manifest.json").read_text())
    paths = [FOLDER / row["audio"] for row in rows]
    return tuple(
        Clip(path, soundfile.read(path, dtype="float32")[0], row["text"]) for path, row in zip(paths, rows, strict=True)
    )
