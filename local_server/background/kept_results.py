"""Keep the results of finished jobs for a while, in memory or in a folder. Knows no job and no route."""

import os
import re
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from handler import logs

MAX_BYTES = 1024**3  # of all results; the oldest are dropped first
DRAFT_PREFIX = "draft-"  # of a file that is being written, or was when its process ended
NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)  # of a result


class KeptResults:
    """Results by name. With a folder, they outlive the process. Any thread may call the methods, which may block."""

    def __init__(self, folder: Path | None, keep_s: float, max_bytes: int = MAX_BYTES) -> None:
        """Keep results for `keep_s` seconds. `folder` is created with the first one."""
        self._folder = folder
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._in_memory: dict[str, tuple[float, bytes]] = {}  # when it was put, and the result
        self._lock = threading.Lock()  # around these

    def put(self, name: str, content: bytes) -> None:
        """Keep a result. If the folder cannot take it, log a warning and keep it in memory."""
        try:
            if self._folder is None:
                self._put_in_memory(name, content)
            else:
                _write(self._folder, name, content)
        except OSError as exc:
            logs.warning("result_not_kept", folder=str(self._folder), reason=exc.strerror)
            self._put_in_memory(name, content)
        self.drop_old()

    def _put_in_memory(self, name: str, content: bytes) -> None:
        with self._lock:
            self._in_memory[name] = (time.time(), content)

    def get(self, name: str) -> bytes | None:
        """Return a result, or None if there is none any more."""
        if not NAME.fullmatch(name):
            return None
        self.drop_old()
        with self._lock:
            if name in self._in_memory:
                return self._in_memory[name][1]
        with suppress(OSError):
            if self._folder is not None:
                return _read(self._folder / name)
        return None

    def remove(self, name: str) -> bool:
        """Remove a result, and return whether there was one."""
        return NAME.fullmatch(name) is not None and self._drop(name)

    def drop_old(self) -> None:
        """Remove results that are older than `keep_s`, and the oldest ones down to `max_bytes`."""
        with self._lock:
            kept = [(put_at, len(content), name) for name, (put_at, content) in self._in_memory.items()]
        kept += self._files()
        total = sum(size for _, size, _ in kept)
        for put_at, size, name in sorted(kept):
            if total <= self._max_bytes and time.time() - put_at < self._keep_s:
                return
            self._drop(name)
            total -= size

    def _drop(self, name: str) -> bool:
        """Remove what has this name, and return whether there was anything."""
        with self._lock:
            was_there = self._in_memory.pop(name, None) is not None
        with suppress(OSError):
            if self._folder is not None:
                (self._folder / name).unlink()
                was_there = True
        return was_there

    def _files(self) -> list[tuple[float, int, str]]:
        """Return when each file in the folder was written, its size in bytes, and its name."""
        found: list[tuple[float, int, str]] = []
        with suppress(OSError):  # there is no folder yet
            for entry in os.scandir(self._folder) if self._folder is not None else ():
                with suppress(OSError):  # another process may remove it at the same time
                    if NAME.fullmatch(entry.name.removeprefix(DRAFT_PREFIX)) and entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_size, entry.name))
        return found


def _read(path: Path) -> bytes:
    """Return the content of a file. Raises OSError, also if the path is a link or no file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("expected a file")
        return file.read()


def _write(folder: Path, name: str, content: bytes) -> None:
    """Write a file that only its owner may read. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f"{DRAFT_PREFIX}{name}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(draft, flags, 0o600), "wb") as file:
            file.write(content)
        draft.replace(folder / name)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
