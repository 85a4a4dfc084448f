"""Folders of converted weights that processes keep for each other. Knows no content of them.

A folder is written under a temporary name and then renamed, so no reader sees an incomplete one. If several processes
write the same one at once, the one renamed first stays.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

STALE_DRAFT_S = 24 * 3600.0  # a draft folder older than this is removed, because its writer must have ended
UNUSED_S = 60 * 24 * 3600.0  # a checkpoint's conversions are removed if no process has read them for this long
_DRAFT = ".draft-"


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty draft folder that becomes `target` when the block ends, and is removed if the block raises.

    Also remove abandoned drafts of the same checkpoint, and the conversions of checkpoints that have not been read for
    UNUSED_S. Raises OSError, also where `target` is there already.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_older(target.parent.glob(f"{_DRAFT}*"), STALE_DRAFT_S)
    _remove_older((folder for folder in target.parent.parent.iterdir() if folder != target.parent), UNUSED_S)
    draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)  # temporary folders are readable only by their owner by default
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_older(folders: Iterable[Path], age_s: float) -> None:
    """Remove the folders that have not been modified for `age_s` seconds. Ignore errors."""
    for folder in folders:
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > age_s:
                shutil.rmtree(folder, ignore_errors=True)
