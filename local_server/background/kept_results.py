"""Keep the results of finished jobs for a while, in memory or in a folder. Knows no job and no route."""

import os
import re
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from handler import logs

MAX_BYTES = 1024**3  # of all results; the oldest are dropped first
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
        self.drop_old()
        if self._folder is not None:
            try:
                self._write(self._folder, name, content)
                return
            except OSError as exc:
                logs.warning("result_not_kept", folder=str(self._folder), reason=exc.strerror)
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
                return (self._folder / name).read_bytes()
        return None

    def remove(self, name: str) -> bool:
        """Remove a result, and return whether there was one."""
        if not NAME.fullmatch(name):
            return False
        with self._lock:
            was_there = self._in_memory.pop(name, None) is not None
        with suppress(OSError):
            if self._folder is not None:
                (self._folder / name).unlink()
                was_there = True
        return was_there

    def drop_old(self) -> None:
        """Remove results that are older than `keep_s`, and the oldest ones down to `max_bytes`."""
        with self._lock:
            kept = [(put_at, len(content), name) for name, (put_at, content) in self._in_memory.items()]
        kept += self._files()
        total = sum(size for _, size, _ in kept)
        for put_at, size, name in sorted(kept):
            if total <= self._max_bytes and time.time() - put_at < self._keep_s:
                return
            self.remove(name)
            total -= size

    def _files(self) -> list[tuple[float, int, str]]:
        """Return when each file in the folder was written, its size in bytes, and its name."""
        found: list[tuple[float, int, str]] = []
        with suppress(OSError):  # there is no folder yet
            for entry in os.scandir(self._folder) if self._folder is not None else ():
                with suppress(OSError):  # another process may remove it at the same time
                    if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime, status.st_size, entry.name))
        return found

    @staticmethod
    def _write(folder: Path, name: str, content: bytes) -> None:
        """Write a file that only its owner may read. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = folder / f"draft-{secrets.token_hex(8)}"
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(content)
            draft.replace(folder / name)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
