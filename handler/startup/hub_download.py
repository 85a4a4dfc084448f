"""Download a model from the Hub into its cache layout, with progress. Knows no other place of a model."""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from handler import logs
from handler.errors import ModelUnavailable

PROGRESS_S = 5.0


MAIN = "main"  # the revision of whoever names none


_SMALL_FILES = ["*.json", "merges.txt", "vocabulary.txt", "*.tiktoken"]


def download_snapshot(model_id: str, cache_dir: Path, revision: str | None) -> Path:
    """A download, as files and not as links, which a mirror would leave out; one that was broken off goes on where it ended."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logs.info("model_download_started", model=model_id, revision=revision or MAIN, cache_dir=str(cache_dir))
    try:
        about = HfApi().model_info(model_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in about.siblings or ()}
        wanted = [*_SMALL_FILES, *_weights_among(model_id, list(sizes))]
        repo, commit = cache_dir / folder_name(model_id), str(about.sha)
        folder = repo / "snapshots" / commit
        total = sum(size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in wanted))
        with _progress(model_id, folder, total):
            snapshot_download(model_id, revision=commit, local_dir=folder, allow_patterns=wanted)
        _name(repo / "refs" / (revision or MAIN), commit)
    except ModelUnavailable:
        raise
    except Exception as exc:  # the Hub's client, its transport and the file system each raise their own
        raise ModelUnavailable(f"MODEL_ID={model_id}: the Hub did not deliver it into {cache_dir}: {_first_line(exc)}") from exc
    logs.info("model_download_finished", model=model_id, revision=commit)
    return folder


def folder_name(model_id: str) -> str:
    """As in the Hub's cache."""
    return f"models--{model_id.replace('/', '--')}"


def _name(ref: Path, commit: str) -> None:
    """Note which commit a revision is."""
    if ref.name != commit:
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft = ref.with_name(f".{ref.name}.{os.getpid()}")
        draft.write_text(commit)
        draft.replace(ref)


@contextmanager
def _progress(model_id: str, folder: Path, total: int) -> Iterator[None]:
    """Tells every few seconds how much of a download has come."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(PROGRESS_S):
            got = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            logs.info(
                "model_download_progress", model=model_id, bytes=got, total=total, percent=round(100 * min(1.0, got / max(1, total)), 1)
            )

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        yield
    finally:
        over.set()


def _weights_among(model_id: str, files: Sequence[str]) -> list[str]:
    """Which of a repository's files hold its weights: one layout, one precision."""
    for pattern in (r"model\.safetensors", r"model-\d+-of-\d+\.safetensors", r"model\.bin", r"[^/]+\.pt"):
        if found := [name for name in files if re.fullmatch(pattern, name)]:
            return found
    raise ModelUnavailable(f"MODEL_ID={model_id}: expected model.safetensors, model.bin or a .pt file of a Whisper checkpoint")


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
