"""MODEL_ID to a folder on this machine: a package, a folder, what the image carries, what the platform has placed, the cache, a
network volume, the Hub.

Knows no layout of weights beyond the names of the files worth having.
"""

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from handler.errors import ModelUnavailable
from handler.runpod_sdk import import_sdk
from handler.startup.hub_download import MAIN, download_snapshot, folder_name
from handler.whisper.checkpoint.fingerprint import fingerprint

BAKED = Path("/opt/models")  # where an image carries its model
VOLUME = Path("/runpod-volume")  # where RunPod mounts a network volume
PLATFORM_CACHE = VOLUME / "huggingface-cache/hub"  # where RunPod places a model named in an endpoint's settings
SEARCH_PATHS = (BAKED, PLATFORM_CACHE)  # folders of the Hub's cache layout, looked at in this order and before CACHE_DIR
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_ONE_FILE = ("model.safetensors", "model.bin")


def find_model(
    model_id: str, cache_dir: Path, revision: str | None = None, places: Sequence[Path] = SEARCH_PATHS, volume: Path = VOLUME
) -> Path:
    """The folder of a model, copied into `cache_dir` from a network volume or downloaded where it has to be. Raises ModelUnavailable."""
    asked = model_id, cache_dir, revision
    return find_local(*asked, places) or _mirrored(*asked, volume) or download_snapshot(*asked)


def find_local(model_id: str, cache_dir: Path, revision: str | None = None, places: Sequence[Path] = SEARCH_PATHS) -> Path | None:
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


def revision(folder: Path) -> str:
    """What an account calls the revision of a model: its commit in a snapshot of the Hub's, else what its file is known by."""
    if folder.parent.name == "snapshots":
        return folder.name
    files = weights_in(folder)
    return f"local-{fingerprint(files[0])[:12]}" if files else "local"


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
    repo = hub / folder_name(model_id)
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


def mirror(cache_dir: Path, volume: Path = VOLUME) -> Any | None:
    """The SDK's mirror of `cache_dir` on a network volume; None where there is no volume, no endpoint, or the folder lies on it."""
    if not volume.is_dir() or cache_dir.resolve().is_relative_to(volume.resolve()):
        return None
    found = import_sdk("runpod.serverless.utils.rp_volume_cache").VolumeCache([cache_dir], volume_path=volume)
    return found if found.available else None


def _mirrored(model_id: str, cache_dir: Path, revision: str | None, volume: Path) -> Path | None:
    """The model out of the mirror, as far as an earlier worker has put it there."""
    mirrored = mirror(cache_dir, volume)
    if mirrored is None or not mirrored.hydrate():
        return None
    return find_local(model_id, cache_dir, revision, places=())
