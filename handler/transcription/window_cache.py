"""Keep decoded windows on disk, so that a repeated request continues where the last one ended. Knows no engine.

The key of a window is a hash of its samples and of everything else that affects its text. Audio is therefore recognized
without a file name, even if it is cut off at a different place. A file is written under a temporary name and then
renamed, so that no reader sees half of it. If two processes write the same entry, the later file replaces the earlier.
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
from handler.transcription.decoded_window import DecodedWindow

# Options that do not affect the text of a window, or that are part of the window's DecodingParams.
IRRELEVANT_OPTIONS = ("format", "timestamps", "start_at", "partial", "language")
EVICT_EVERY = 64  # number of files written between two evictions


class WindowCache:
    """Stores decoded windows as files in a folder. All methods may be called from any thread.

    Once per EVICT_EVERY writes, entries that were not used for more than `max_age_s` seconds are deleted. The least
    recently used entries are then deleted until the folder takes at most `max_bytes`.
    """

    def __init__(self, folder: Path, max_bytes: int, max_age_s: float, process_params: Sequence[object] = ()) -> None:
        """Create a cache. `process_params` are the settings of the process that affect the text of a window."""
        self._process_params = list(process_params)
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._num_written = 0
        self._lock = threading.Lock()

    def key(self, window: Window, options: Options, model_info: Mapping[str, str]) -> str:
        """Return the key under which the decoded window is stored, a SHA-256 in hexadecimal."""
        relevant_options = {name: value for name, value in asdict(options).items() if name not in IRRELEVANT_OPTIONS}
        identity = [
            self._process_params,
            dict(model_info),
            relevant_options,
            asdict(window.params),
            window.start,
            window.channel,
            window.speech,
        ]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        digest.update(window.samples.tobytes())
        return digest.hexdigest()

    def get(self, key: str) -> DecodedWindow | None:
        """Return the decoded window stored under `key`, or None if there is none or the file is damaged."""
        path = self._path(key)
        try:
            fields = json.loads(path.read_bytes())
            os.utime(path)
            return _window_from_json(fields)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, decoded: DecodedWindow) -> None:
        """Store a decoded window under `key`. If the disk is full or read-only, log a warning and store nothing."""
        self._write(self._path(key), decoded)
        with self._lock:
            self._num_written += 1
            is_due = self._num_written % EVICT_EVERY == 1
        if is_due:  # in the background, so that no request waits
            threading.Thread(target=self.evict, name="evict", daemon=True).start()

    def _write(self, path: Path, decoded: DecodedWindow) -> None:
        draft: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
                draft = Path(file.name)
                json.dump(asdict(decoded), file)
            draft.replace(path)
        except OSError as exc:
            logs.warning("reading_not_kept", folder=str(self._folder), reason=exc.strerror)
            if draft is not None:
                draft.unlink(missing_ok=True)

    def evict(self) -> None:
        """Delete entries unused for over `max_age_s`, and then the least recently used ones down to `max_bytes`."""
        entries = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process may delete the file at the same time
                stat = path.stat()
                entries.append((stat.st_mtime, stat.st_size, path))
        total_bytes = sum(size for _, size, _ in entries)
        for used_at, size, path in sorted(entries, key=lambda entry: entry[0]):
            if total_bytes <= self._max_bytes and time.time() - used_at <= self._max_age_s:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total_bytes -= size

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key


def _window_from_json(fields: dict[str, Any]) -> DecodedWindow:
    """Build a DecodedWindow from its JSON form. Raises KeyError, TypeError, ValueError."""
    nested = {
        "speech": tuple((start, end) for start, end in fields["speech"]),
        "segments": [_segment_from_json(segment) for segment in fields["segments"]],
        "warnings": [(seconds, text) for seconds, text in fields["warnings"]],
    }
    return DecodedWindow(**{**fields, **nested})


def _segment_from_json(fields: dict[str, Any]) -> Segment:
    nested = {
        "tokens": tuple(fields["tokens"]),
        "evidence": Evidence(**fields["evidence"]) if fields["evidence"] else None,
        "words": tuple(_word_from_json(word) for word in fields["words"]),
    }
    return Segment(**{**fields, **nested})


def _word_from_json(fields: dict[str, Any]) -> Word:
    return Word(**{**fields, "tokens": tuple((token, logprob) for token, logprob in fields["tokens"])})
