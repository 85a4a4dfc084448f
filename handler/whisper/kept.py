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
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from handler import logs

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # of the tensors' names and of what is laid into them: what another version has kept is not read
BLOCK = 8 * 1024**2  # bytes
READERS = min(8, os.cpu_count() or 1)  # threads: one alone does not fill a network disk's line
OLD_DRAFT_S = 24 * 3600.0  # whoever began it is gone
T = TypeVar("T")
_WEIGHTS, _SUMS, _DRAFT = "model.safetensors", "sums.json", ".draft-"


class Kept:
    """Where the conversions of one checkpoint file lie, one folder for each number format."""

    def __init__(self, cache_dir: Path, source: Path) -> None:
        stat = source.stat()
        told = "\0".join((str(source.resolve()), str(stat.st_size), str(stat.st_mtime_ns), str(FORMAT)))
        self._folder = cache_dir / "converted" / hashlib.sha256(told.encode()).hexdigest()[:24]
        self._sound: set[str] = set()
        self._noted: tuple[str, dict[str, Tensor]] | None = None

    def check(self) -> None:
        """Read all that is kept, which brings it into memory, and see whether it is whole; what is not is removed."""
        for folder in self._folder.glob("[!.]*/"):
            if _is_sound(folder):
                self._sound.add(folder.name)
            else:
                logs.warning("kept_checkpoint_damaged", folder=str(folder))
                shutil.rmtree(folder, ignore_errors=True)

    def file(self, dtype: str) -> Path | None:
        """The file of a number format, where one is kept and `check` has found it whole."""
        return self.path(dtype) if dtype in self._sound else None

    def path(self, dtype: str) -> Path:
        """Where the file of a number format lies, or would."""
        return self._folder / dtype / _WEIGHTS

    def any(self) -> bool:
        """Whether some number format is kept."""
        return bool(self._sound)

    def later(self, dtype: str, tensors: "Mapping[str, Tensor]") -> None:
        """Note tensors for `write`."""
        self._noted = dtype, dict(tensors)

    def write(self) -> None:
        """Keep what was noted for the next process; a disk that is full or cannot be written is told and changes nothing."""
        from safetensors.torch import save_file

        if self._noted is None:
            return
        (dtype, tensors), self._noted = self._noted, None
        target = self._folder / dtype
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _forget_old_drafts(self._folder)
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._folder))
            try:
                weights = draft / _WEIGHTS
                save_file(tensors, weights)
                (draft / _SUMS).write_text(json.dumps({"size": weights.stat().st_size, "sha256": _blocks(weights, _sum)}))
                draft.chmod(0o755)  # of a temporary folder nobody else could read
                draft.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        except Exception as exc:  # safetensors raises its own for a full disk
            if not target.is_dir():  # else somebody else was first
                logs.warning("conversion_not_kept", folder=str(self._folder), reason=str(exc) or type(exc).__name__)


def read_ahead(path: Path) -> None:
    """Bring a file into memory by several readers, so that whoever maps it does not wait for one page after the other."""
    with contextlib.suppress(OSError):  # whoever needs it says so
        _blocks(path, len)


def _is_sound(folder: Path) -> bool:
    try:
        told = json.loads((folder / _SUMS).read_text())
        weights = folder / _WEIGHTS
        return bool(weights.stat().st_size == told["size"] and _blocks(weights, _sum) == told["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sum(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()


def _blocks(path: Path, of: Callable[[bytes], T]) -> list[T]:
    """Something of each block of a file, read by several threads."""
    with path.open("rb") as file, ThreadPoolExecutor(READERS) as readers:
        descriptor = file.fileno()
        return list(readers.map(lambda at: of(os.pread(descriptor, BLOCK, at)), range(0, os.fstat(descriptor).st_size, BLOCK)))


def _forget_old_drafts(folder: Path) -> None:
    for draft in folder.glob(f"{_DRAFT}*"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > OLD_DRAFT_S:
                shutil.rmtree(draft, ignore_errors=True)
