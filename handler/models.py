"""MODEL_ID to a folder on this machine: a package, a folder, what the image carries, what the platform has placed, the cache, the Hub.

Knows no layout of weights beyond the names of the files worth having.
"""

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from handler import logs
from handler.errors import ModelUnavailable

BAKED = Path("/opt/models")  # where an image carries its model
PLATFORM_CACHE = Path("/runpod-volume/huggingface-cache/hub")  # where RunPod places a model named in an endpoint's settings
PLACES = (BAKED, PLATFORM_CACHE)  # folders of the Hub's cache layout, looked at in this order and before CACHE_DIR
MAIN = "main"  # the revision of whoever names none
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_ONE_FILE = ("model.safetensors", "model.bin")
_SMALL_FILES = ["*.json", "merges.txt", "vocabulary.txt", "*.tiktoken"]


def find_model(model_id: str, cache_dir: Path, revision: str | None = None, places: Sequence[Path] = PLACES) -> Path:
    """The folder of a model, downloaded into `cache_dir` where it has to be. Raises ModelUnavailable."""
    return placed_model(model_id, cache_dir, revision, places) or _hub_snapshot(model_id, cache_dir, revision)


def placed_model(model_id: str, cache_dir: Path, revision: str | None = None, places: Sequence[Path] = PLACES) -> Path | None:
    """The folder of a model that is on this machine; None where it has to be downloaded. Raises ModelUnavailable."""
    if model_id.startswith("pkg:"):
        return _package_folder(model_id)
    if os.path.isdir(model_id):
        return Path(model_id)
    if model_id.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(model_id):
        raise ModelUnavailable(f"MODEL_ID={model_id}: expected a Hub id, an existing folder, or pkg:PACKAGE/FOLDER")
    revision = None if revision == MAIN else revision
    found = (_kept_snapshot(model_id, hub, revision) for hub in (*places, cache_dir))
    return next((folder for folder in found if folder is not None), None)


def weights_in(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, in one layout; none where there are none."""
    for pattern in ("model.safetensors", "model-*-of-*.safetensors", "model.bin", "*.pt"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _package_folder(model_id: str) -> Path:
    package, _, inner = model_id.removeprefix("pkg:").partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ModelUnavailable(f"MODEL_ID={model_id}: no package {package!r} is installed")
    root = Path(spec.origin).parent
    folder = (root / inner).resolve()
    if not folder.is_dir() or not folder.is_relative_to(root.resolve()):
        raise ModelUnavailable(f"MODEL_ID={model_id}: package {package} has no folder {inner!r}")
    return folder


def _kept_snapshot(model_id: str, hub: Path, revision: str | None) -> Path | None:
    """The whole snapshot of a Hub id inside a folder of the Hub's cache layout: of a revision, or the one `main` names, or the only one."""
    repo = hub / f"models--{model_id.replace('/', '--')}"
    named = repo / "refs" / (revision or MAIN)
    commit = named.read_text().strip() if named.is_file() else revision
    snapshots = [repo / "snapshots" / commit] if commit else sorted((repo / "snapshots").glob("*/"))
    return snapshots[0] if len(snapshots) == 1 and _is_whole(snapshots[0]) else None


def _is_whole(folder: Path) -> bool:
    """Whether all files of the weights are there: a download that was broken off leaves some."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = re.findall(r'"([^"]+\.safetensors)"', index.read_text())
        return bool(shards) and all((folder / name).is_file() for name in shards)
    return any((folder / "config.json").is_file() and (folder / name).is_file() for name in _ONE_FILE) or any(folder.glob("*.pt"))


def _hub_snapshot(model_id: str, cache_dir: Path, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logs.info("model_download_started", model=model_id, revision=revision or MAIN, cache_dir=str(cache_dir))
    try:
        weights = _weights_on_hub(model_id, revision)
        folder = Path(snapshot_download(model_id, revision=revision, cache_dir=cache_dir, allow_patterns=[*_SMALL_FILES, *weights]))
    except ModelUnavailable:
        raise
    except Exception as exc:  # the Hub's client, its transport and the file system each raise their own
        raise ModelUnavailable(f"MODEL_ID={model_id}: the Hub did not deliver it into {cache_dir}: {_first_line(exc)}") from exc
    logs.info("model_download_finished", model=model_id)
    return folder


def _weights_on_hub(model_id: str, revision: str | None) -> list[str]:
    """Which of a repository's files hold its weights: one layout, one precision."""
    from huggingface_hub import HfApi

    files = HfApi().list_repo_files(model_id, revision=revision)
    for pattern in (r"model\.safetensors", r"model-\d+-of-\d+\.safetensors", r"model\.bin", r"[^/]+\.pt"):
        if found := [name for name in files if re.fullmatch(pattern, name)]:
            return found
    raise ModelUnavailable(f"MODEL_ID={model_id}: expected model.safetensors, model.bin or a .pt file of a Whisper checkpoint")


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
