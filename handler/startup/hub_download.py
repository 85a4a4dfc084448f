"""Download a model from the Hugging Face Hub and log the progress. Knows no other source of models."""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from handler import logs
from handler.errors import ModelUnavailable
from handler.hub.adapters import adapter_file, adapter_languages, no_adapter
from handler.settings import COMMIT

PROGRESS_S = 5.0  # seconds between two progress reports
MAIN = "main"  # the default revision
_WEIGHT_LAYOUTS = (
    *(r"model\.safetensors", r"model-\d+-of-\d+\.safetensors", r"model\.bin", r"[^/]+\.pt"),
    *(r"pytorch_model\.bin", r"pytorch_model-\d+-of-\d+\.bin"),
)
_COMMIT = re.compile("[0-9a-f]{40,64}")
_SMALL_FILES = ["*.json", "merges.txt", "vocab.txt", "vocabulary.txt", "*.tiktoken", "*.model", "*.jinja", "README.md"]


def download_snapshot(
    model_id: str, cache_dir: Path, revision: str | None, language: str | None = None, with_code: bool = False
) -> Path:
    """Download a model into `cache_dir`, in the Hub's cache layout, and return the folder of the snapshot.

    An interrupted download is resumed. The snapshot holds regular files instead of the usual links, because a copy to a
    network volume would leave out links. If `revision` is None, it is `main`. Of weights that a checkpoint has for
    each language, only those for `language` are downloaded, and Python files only `with_code`. Raises ModelUnavailable.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logs.info("model_download_started", model=model_id, revision=revision or MAIN, cache_dir=str(cache_dir))
    try:
        info = HfApi().model_info(model_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        patterns = [*_SMALL_FILES, *_weight_names(model_id, list(sizes))]
        patterns += _language_names(list(sizes), language)
        patterns += ["*.py"] if with_code else []
        repo, commit = cache_dir / folder_name(model_id), str(info.sha)
        if not _COMMIT.fullmatch(commit):  # it names a folder
            raise ModelUnavailable(f"MODEL_ID={model_id}: the Hub named no commit: {commit[:100]!r}")
        if revision is not None and COMMIT.fullmatch(revision) and commit != revision:
            raise ModelUnavailable(f"MODEL_ID={model_id}: the Hub has another commit, {commit}, under {revision}")
        folder = repo / "snapshots" / commit
        total = sum(size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in patterns))
        with _progress(model_id, folder, total):
            snapshot_download(model_id, revision=commit, local_dir=folder, allow_patterns=patterns)
        _write_ref(repo / "refs" / (revision or MAIN), commit)
    except ModelUnavailable:
        raise
    except Exception as exc:  # the Hub client, its HTTP library and the file system raise errors of different types
        reason = f"the Hub did not deliver it into {cache_dir}: {_first_line(exc)}"
        raise ModelUnavailable(f"MODEL_ID={model_id}: {reason}") from exc
    logs.info("model_download_finished", model=model_id, revision=commit)
    return folder


def folder_name(model_id: str) -> str:
    """Return the name of a model's folder in the Hub's cache layout."""
    return f"models--{model_id.replace('/', '--')}"


def _write_ref(ref: Path, commit: str) -> None:
    """Record the commit of a revision in the file `ref`, unless the revision is the commit itself."""
    if ref.name != commit:
        ref.parent.mkdir(parents=True, exist_ok=True)
        draft = ref.with_name(f".{ref.name}.{os.getpid()}")
        draft.write_text(commit)
        draft.replace(ref)


@contextmanager
def _progress(model_id: str, folder: Path, total: int) -> Iterator[None]:
    """Log every few seconds how many of the `total` bytes have arrived in `folder`, until the block ends."""
    stop = threading.Event()

    def report() -> None:
        while not stop.wait(PROGRESS_S):
            try:
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            except OSError:  # a finished part was renamed meanwhile
                continue
            percent = round(100 * min(1.0, size / max(1, total)), 1)
            logs.info("model_download_progress", model=model_id, bytes=size, total=total, percent=percent)

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _weight_names(model_id: str, files: Sequence[str]) -> list[str]:
    """Return the names of the weight files among the files of a repository.

    If a repository offers the weights in several layouts, only the files of one layout are returned. Raises
    ModelUnavailable if there are no weights.
    """
    for pattern in _WEIGHT_LAYOUTS:
        if names := [name for name in files if re.fullmatch(pattern, name)]:
            return names
    expected = "model.safetensors, pytorch_model.bin, or model.bin or a .pt file of a Whisper checkpoint"
    raise ModelUnavailable(f"MODEL_ID={model_id}: expected {expected}")


def _language_names(files: Sequence[str], language: str | None) -> list[str]:
    """Return the name of the file with the weights for `language`, if the repository has weights for each language.

    Raises ModelUnavailable if it has some, and none for this one.
    """
    languages = adapter_languages(files)
    if language is None or not languages:
        return []
    if language not in languages:
        raise no_adapter(language, "the Hub has no weights for it", languages)
    return [adapter_file(language)]


def _first_line(exc: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
