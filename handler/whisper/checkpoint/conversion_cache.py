"""A checkpoint that had to be converted, kept as it is served: one file, and the sums of its blocks. Knows no layout and no network.

A folder appears whole, by one rename, so no reader sees half of it, and of several processes that convert at once the first
one's is kept. Reading needs no PyTorch until the blocks have passed: it runs while that is being imported.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from handler import logs
from handler.whisper.checkpoint.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # of the tensors' names and of what is laid into them: what another version has kept is not read
BLOCK = 8 * 1024**2  # bytes
READERS = 8  # threads: one alone does not fill a network disk's line
OLD_DRAFT_S = 24 * 3600.0  # whoever began it is gone
UNUSED_S = 60 * 24 * 3600.0  # what no process has read for so long is of a checkpoint that is gone
T = TypeVar("T")
_WEIGHTS, _SUMS, _DRAFT = "model.safetensors", "sums.json", ".draft-"


class ConversionCache:
    """Where the conversions of one checkpoint file lie, one folder for each number format. Written to the last of the places."""

    def __init__(self, places: Sequence[Path], source: Path, over: threading.Event | None = None) -> None:
        """`places` are folders of models. What reads for long ends as soon as `over` is set."""
        self._folders = [place / "converted" / _key(source) for place in places]
        self._over = over or threading.Event()
        self._sound: dict[str, Path] = {}
        self._noted: tuple[str, dict[str, Tensor]] | None = None

    def check(self, dtype: str | None = None) -> None:
        """Read what is kept, of one number format or of all, which brings it into memory, and see whether it is whole.

        What is not is removed. What cannot be read at present is passed over.
        """
        for folder in (found for place in self._folders for found in place.glob(dtype or "[!.]*")):
            try:
                sound = self._is_sound(folder)
            except OSError as exc:
                logs.warning("kept_checkpoint_unreadable", folder=str(folder), reason=exc.strerror)
                continue
            if sound:
                self._sound.setdefault(folder.name, folder / _WEIGHTS)
                with contextlib.suppress(OSError):  # what is baked cannot be marked, and is not removed either
                    os.utime(folder.parent)
            elif not self._over.is_set():
                logs.warning("kept_checkpoint_damaged", folder=str(folder))
                shutil.rmtree(folder, ignore_errors=True)

    def _is_sound(self, folder: Path) -> bool:
        weights, sums = folder / _WEIGHTS, folder / _SUMS
        if not (weights.is_file() and sums.is_file()):
            return False
        try:
            told = json.loads(sums.read_text())
            return bool(weights.stat().st_size == told["size"] and _each_block(weights, self._over, _sum) == told["sha256"])
        except (ValueError, KeyError, TypeError):
            return False

    def file(self, dtype: str) -> Path | None:
        """The file of a number format, where one is kept and `check` has found it whole."""
        return self._sound.get(dtype)

    def path(self, dtype: str) -> Path:
        """Where the file of a number format is written."""
        return self._folders[-1] / dtype / _WEIGHTS

    def any(self) -> bool:
        """Whether some number format is kept."""
        return bool(self._sound)

    def schedule_write(self, dtype: str, tensors: "Mapping[str, Tensor]") -> None:
        """Note tensors for `write`."""
        self._noted = dtype, dict(tensors)

    def write(self) -> None:
        """Keep what was noted for the next process; a disk that is full or cannot be written is told and changes nothing."""
        from safetensors.torch import save_file

        if self._noted is None:
            return
        (dtype, tensors), self._noted = self._noted, None
        target = self.path(dtype).parent
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _forget(target.parent.glob(f"{_DRAFT}*"), OLD_DRAFT_S)
            _forget((other for other in target.parent.parent.iterdir() if other != target.parent), UNUSED_S)
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=target.parent))
            try:
                weights = draft / _WEIGHTS
                save_file(tensors, weights)
                (draft / _SUMS).write_text(json.dumps({"size": weights.stat().st_size, "sha256": list(_sums(weights))}))
                weights.chmod(0o644)  # a temporary folder and what safetensors writes are for their owner alone
                draft.chmod(0o755)
                draft.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        except Exception as exc:  # safetensors raises its own for a full disk
            if not target.is_dir():  # else somebody else was first
                logs.warning("conversion_not_kept", folder=str(target), reason=str(exc) or type(exc).__name__)


def read_ahead(path: Path, over: threading.Event) -> None:
    """Bring a file into memory by several readers, until it is there or `over` is set."""
    _each_block(path, over, len)


def _each_block(path: Path, over: threading.Event, of: Callable[[bytes], T]) -> list[T | None]:
    """Something of each block of a file, read by several threads; None where it was over before."""

    def read(at: int) -> T | None:
        return None if over.is_set() else of(os.pread(file.fileno(), BLOCK, at))

    with path.open("rb") as file, ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(read, range(0, os.fstat(file.fileno()).st_size, BLOCK)))


def _sums(path: Path) -> Iterator[str]:
    """SHA-256 of each block, by one reader: as the interpreter ends it starts no threads any more."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield _sum(block)


def _sum(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()


def _key(source: Path) -> str:
    return hashlib.sha256(f"{FORMAT} {fingerprint(source)}".encode()).hexdigest()[:24]


def _forget(folders: Iterable[Path], age: float) -> None:
    """Remove those folders that nobody has touched for `age` seconds."""
    for folder in folders:
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > age:
                shutil.rmtree(folder, ignore_errors=True)
