"""Keep decoded windows on disk, so that a repeated request continues where the last one ended. Knows no engine.

The key of a window is a hash of its samples and of everything else that affects its text. Audio is therefore recognized
without a file name, even if it is cut off at a different place. A file is written under a temporary name and then
renamed, so that no reader sees half of it. If two processes write the same entry, the later file replaces the earlier.

The folder may be shared, so nothing in it is trusted to be what this module wrote: links are not followed, only regular
files are read, and `window_entry` checks their content. Whoever can write there can still write transcripts.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from handler import logs
from handler.schema.options import Options
from handler.schema.window import Window
from handler.transcription import window_entry
from handler.transcription.decoded_window import DecodedWindow

# Options that do not affect the text of a window, that are part of the window's DecodingParams, or that act through the
# window's samples.
IRRELEVANT_OPTIONS = (
    *("format", "timestamps", "start_at", "partial", "language"),
    *("audio_track", "input_format", "sample_rate", "input_channels"),
    *(
        "diarize",
        "speakers",
        "known_speaker_names",
        "known_speaker_references",
        "languages",
        "paragraphs",
        "replace",
        "redact",
    ),
)
EVICT_EVERY = 64  # number of files written between two evictions
_SUBFOLDER = re.compile("[0-9a-f]{2}")  # the first two characters of the keys in it
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC


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
            asdict(replace(window.params, draft=())),
            window.start,
            window.channel,
            window.speech,
        ]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        digest.update(window.samples.tobytes())
        return digest.hexdigest()

    def get(self, key: str, window: Window) -> DecodedWindow | None:
        """Return the decoded form of `window` that is stored under `key`, or None if there is none.

        An entry that is damaged, or that `window_entry.decode` refuses for another reason, is removed.
        """
        with contextlib.suppress(OSError), _open_folder(self._folder / key[:2]) as folder:
            try:
                with _open_entry(key, folder) as descriptor:
                    decoded = window_entry.decode(key, _read(descriptor), window)
                    with contextlib.suppress(OSError):  # a read-only folder, from which nothing is evicted
                        os.utime(descriptor)
                    return decoded
            except ValueError as exc:
                logs.warning("kept_window_damaged", folder=str(self._folder), entry=key, reason=str(exc))
                os.unlink(key, dir_fd=folder)
        return None

    def put(self, key: str, decoded: DecodedWindow) -> None:
        """Store a decoded window under `key`. If the disk is full or read-only, log a warning and store nothing."""
        self._write(key, decoded)
        with self._lock:
            self._num_written += 1
            is_due = self._num_written % EVICT_EVERY == 1
        if is_due:  # in the background, so that no request waits
            threading.Thread(target=self.evict, name="evict", daemon=True).start()

    def _write(self, key: str, decoded: DecodedWindow) -> None:
        path = self._folder / key[:2]
        try:
            entry = window_entry.encode(key, decoded)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
            with _open_folder(path) as folder:
                _replace(key, folder, entry)
        except OSError as exc:
            logs.warning("reading_not_kept", folder=str(self._folder), reason=exc.strerror)
        except ValueError as exc:
            logs.warning("reading_not_kept", folder=str(self._folder), reason=str(exc))

    def evict(self) -> None:
        """Delete entries unused for over `max_age_s`, and then the least recently used ones down to `max_bytes`."""
        entries = list(self._entries())
        total_bytes = sum(size for _, size, _ in entries)
        for used_at, size, path in sorted(entries, key=lambda entry: entry[0]):
            if total_bytes <= self._max_bytes and time.time() - used_at <= self._max_age_s:
                return
            with contextlib.suppress(OSError), _open_folder(path.parent) as folder:
                os.unlink(path.name, dir_fd=folder)
            total_bytes -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each file in the subfolders was last used, its size in bytes, and its path."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if _SUBFOLDER.fullmatch(path.name):
                    yield from _files_in(path)


def _files_in(path: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each file in a folder was last used, its size in bytes, and its path. Skip what cannot be read."""
    with contextlib.suppress(OSError), _open_folder(path) as folder, os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(OSError):  # another process may delete the file at the same time
                status = file.stat(follow_symlinks=False)
                yield status.st_mtime, status.st_size, path / file.name


@contextlib.contextmanager
def _open_folder(path: Path) -> Iterator[int]:
    """Yield a descriptor of a folder. Raises OSError, also if the path is a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _open_entry(name: str, folder: int) -> Iterator[int]:
    """Yield a descriptor of a file for reading.

    `folder` is a descriptor. Raises OSError, and ValueError if the path is no regular file. A device or a pipe is not
    opened, and if it takes the place of a file in between, opening it does not block.
    """
    _require_file(os.stat(name, dir_fd=folder, follow_symlinks=False))
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK, dir_fd=folder)
    try:
        _require_file(os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def _require_file(status: os.stat_result) -> None:
    """Raise ValueError unless the status is that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("expected a regular file")


def _read(descriptor: int) -> bytes:
    """Return the content of a file. Raises OSError, and ValueError if no entry is so long."""
    with open(descriptor, "rb", closefd=False) as file:
        content = file.read(window_entry.MAX_ENTRY_BYTES + 1)
    if len(content) > window_entry.MAX_ENTRY_BYTES:
        raise ValueError(f"expected at most {window_entry.MAX_ENTRY_BYTES} bytes")
    return content


def _replace(name: str, folder: int, content: bytes) -> None:
    """Write a file that only its owner may read, in place of the one that has its name. Raises OSError."""
    draft = f"draft-{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise
