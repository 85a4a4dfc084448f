"""What was read from windows, kept on disk: whoever is given the same work again begins where the last one was ended.

A reading is known by the samples of its window and by all that decides what is read from them, so a file needs no name and
no end. Files appear whole, by a rename; of two processes that read the same, the last one's stays. Knows no engine.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from handler import logs
from handler.schema.options import Options
from handler.schema.transcript import Evidence, Segment, Word
from handler.schema.window import Window
from handler.transcription.window_decoder import DecodedWindow

IRRELEVANT = ("format", "timestamps", "start_at", "partial", "language")  # options that do not change what is read, or that `how` has
LOOK_EVERY = 64  # readings written between two looks at how much there is


class WindowCache:
    """Readings in a folder, of at most `most` bytes together and none unused for longer than `age_s` seconds. From any thread."""

    def __init__(self, folder: Path, most: int, age_s: float, also: Sequence[object] = ()) -> None:
        """`also`: what else decides what is read from a window, such as settings of the process."""
        self._also = list(also)
        self._folder = folder
        self._most = most
        self._age_s = age_s
        self._written = 0
        self._lock = threading.Lock()

    def key(self, window: Window, options: Options, about: Mapping[str, str]) -> str:
        """What the reading of a window is known by."""
        decides = {name: value for name, value in asdict(options).items() if name not in IRRELEVANT}
        told = [self._also, dict(about), decides, asdict(window.params), window.start, window.channel, window.speech]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        digest.update(window.samples.tobytes())
        return digest.hexdigest()

    def get(self, key: str) -> DecodedWindow | None:
        """What was kept under a key; None where there is nothing, or nothing that can be used."""
        path = self._path(key)
        try:
            told = json.loads(path.read_bytes())
            os.utime(path)
            return DecodedWindow(
                [_segment(one) for one in told["segments"]], told["accepted"], [(at, text) for at, text in told["warnings"]]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, reading: DecodedWindow) -> None:
        """Keep a reading. A disk that is full or cannot be written is told and changes nothing."""
        path = self._path(key)
        draft: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
                draft = Path(file.name)
                json.dump(asdict(reading), file)
            draft.replace(path)
        except OSError as exc:
            logs.warning("reading_not_kept", folder=str(self._folder), reason=exc.strerror)
            if draft is not None:
                draft.unlink(missing_ok=True)
        with self._lock:
            self._written += 1
            due = self._written % LOOK_EVERY == 1
        if due:  # nobody waits for it
            threading.Thread(target=self.tidy, name="tidy", daemon=True).start()

    def tidy(self) -> None:
        """Remove what is too old, then the oldest until the rest is small enough."""
        found = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process tidies, too
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        left = sum(size for _, size, _ in found)
        for used, size, path in sorted(found, key=lambda one: one[0]):
            if left <= self._most and time.time() - used <= self._age_s:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            left -= size

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key


def _segment(told: dict[str, Any]) -> Segment:
    evidence = Evidence(**told["evidence"]) if told["evidence"] else None
    words = tuple(Word(**{**word, "tokens": tuple((token, logprob) for token, logprob in word["tokens"])}) for word in told["words"])
    return Segment(**{**told, "tokens": tuple(told["tokens"]), "evidence": evidence, "words": words})
