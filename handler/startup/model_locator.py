"""Find the folder of the model that MODEL_ID names.

MODEL_ID may name a folder of an installed package, a folder on this machine, or a model on the Hugging Face Hub. A Hub
model is searched for in the container image, the platform's cache, CACHE_DIR, a network volume and the Hub, in this
order. Knows no layout of weights beyond the names of their files.
"""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from handler.engine.fingerprint import fingerprint
from handler.errors import ModelUnavailable
from handler.hub.adapters import has_adapter, has_adapters
from handler.hub.auto_map import lacks_code
from handler.runpod_sdk import import_sdk
from handler.settings import COMMIT
from handler.startup.hub_download import MAIN, download_snapshot, folder_name

BAKED = Path("/opt/models")  # models that are part of the container image
VOLUME = Path("/runpod-volume")  # RunPod mounts a network volume here
PLATFORM_CACHE = VOLUME / "huggingface-cache/hub"  # models that the endpoint's settings name
SEARCH_PATHS = (BAKED, PLATFORM_CACHE)  # in the Hub's cache layout; searched in this order, before CACHE_DIR
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_MAX_HUB_ID = 96  # characters; the Hub allows no more
# What git allows in the name of a branch or tag; no part is "..".
_REVISION = re.compile(r"(?!.*(\.\.|//))[^/\s~^:?*\[\\\x00-\x1f\x7f][^\s~^:?*\[\\\x00-\x1f\x7f]{0,199}")
_COMMIT = re.compile(r"[\w-]{1,64}", re.ASCII)
_HYDRATING = threading.Lock()  # copies of a network volume, of which each takes all of it
_MAX_INDEX_BYTES = 16 * 1024**2
_SINGLE_FILES = ("model.safetensors", "model.bin", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # of weights in several files
_SHARD = re.compile(rb'"([\w.-]{1,200}\.(?:safetensors|bin))"')
# By the order in which they are taken where a folder has several.
_WEIGHTS = (
    *("model.safetensors", "model-*-of-*.safetensors", "model.bin", "*.pt"),
    *("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
)


def find_model(
    model_id: str,
    cache_dir: Path,
    revision: str | None = None,
    search_paths: Sequence[Path] = SEARCH_PATHS,
    volume: Path = VOLUME,
    language: str | None = None,
    with_code: bool = False,
) -> Path:
    """Return a model's folder.

    If the model is not on this machine, copy it from a network volume into `cache_dir`. If the volume does not have the
    model either, download it into `cache_dir`, with what it has for `language` alone, and with its Python files only if
    `with_code`. Raises ModelUnavailable.
    """
    model = model_id, cache_dir, revision
    found = find_local(*model, search_paths, language, with_code) or _find_mirrored(*model, volume, language, with_code)
    return found or download_snapshot(*model, language, with_code)


@contextmanager
def named_by(variable: str) -> Iterator[None]:
    """Make errors about a model in the block name a variable other than MODEL_ID."""
    try:
        yield
    except ModelUnavailable as exc:
        raise ModelUnavailable(f"{variable}: {exc.message.removeprefix('MODEL_ID=')}") from exc


def find_local(
    model_id: str,
    cache_dir: Path,
    revision: str | None = None,
    search_paths: Sequence[Path] = SEARCH_PATHS,
    language: str | None = None,
    with_code: bool = False,
) -> Path | None:
    """Return a model's folder on this machine, or None if a Hub model is not on this machine.

    Of a Hub model that has weights for each language, those for `language` must be there, and `with_code` the Python
    files that it names.

    Raises ModelUnavailable if the package or folder that `model_id` names does not exist, or if `model_id` or
    `revision` cannot be that of a Hub model.
    """
    if model_id.startswith("pkg:"):
        return _package_folder(model_id)
    if os.path.isdir(model_id):
        return Path(model_id)
    if ".." in model_id or len(model_id) > _MAX_HUB_ID or not _HUB_ID.fullmatch(model_id):
        expected = f"a Hub id of at most {_MAX_HUB_ID} characters, an existing folder, or pkg:PACKAGE/FOLDER"
        raise ModelUnavailable(f"MODEL_ID={model_id[:200]}: expected {expected}")
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ModelUnavailable(f"MODEL_REVISION={revision[:200]}: expected a branch, a tag or a commit")
    revision = None if revision == MAIN else revision
    snapshots = (_find_snapshot(model_id, hub, revision) for hub in (*search_paths, cache_dir))
    return next(
        (folder for folder in snapshots if folder is not None and not _lacks(folder, language, with_code)), None
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the sorted weight files in a folder, or an empty list. If there are several layouts, one is chosen."""
    for pattern in _WEIGHTS:
        if files := sorted(file for file in folder.glob(pattern) if file.is_file()):
            return files
    return []


def revision(folder: Path) -> str:
    """Return an identifier of a model's version.

    For a snapshot from the Hub, this is the commit. For any other folder, it is "local-" and a fingerprint of the first
    weight file, or "local" if there are no weights.
    """
    if folder.parent.name == "snapshots":
        return folder.name
    files = weight_files(folder)
    return f"local-{fingerprint(files[0])[:12]}" if files else "local"


def _package_folder(model_id: str) -> Path:
    """Return the folder that a `model_id` of the form `pkg:PACKAGE/FOLDER` names. Raises ModelUnavailable."""
    package, _, inner = model_id.removeprefix("pkg:").partition("/")
    root = _package_root(package)
    if root is None:
        raise ModelUnavailable(f"MODEL_ID={model_id[:200]}: no package {package[:100]!r} with folders is installed")
    try:
        folder = (root / inner).resolve()
        is_found = folder.is_dir() and folder.is_relative_to(root.resolve())
    except (OSError, ValueError):  # the name is too long, or has a null byte
        is_found = False
    if not is_found:
        raise ModelUnavailable(f"MODEL_ID={model_id[:200]}: package {package} has no folder {inner[:100]!r}")
    return folder


def _package_root(package: str) -> Path | None:
    """Return the folder of an installed package.

    Return None if there is no such package, or if it has no folder of its own, such as `os`, which is a single module.
    """
    try:
        spec = find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):  # such as `__main__`, which has no spec
        return None
    if spec is None or not spec.has_location or spec.origin is None or not spec.submodule_search_locations:
        return None
    return Path(spec.origin).parent


def _find_snapshot(model_id: str, hub: Path, revision: str | None) -> Path | None:
    """Return the folder of a model's snapshot in `hub`, a folder in the Hub's cache layout.

    If `revision` is None, the snapshot of the branch `main` is returned. If there is no record of `main`, the only
    snapshot is returned. Return None if the snapshot is missing or incomplete, or if there is no record of `main` and
    more than one snapshot.
    """
    repo = hub / folder_name(model_id)
    is_commit = revision is not None and COMMIT.fullmatch(revision)  # which no branch or tag may stand for
    commit = revision if is_commit else _read_ref(repo / "refs" / (revision or MAIN)) or revision
    snapshots = sorted((repo / "snapshots").glob("*/"))
    if commit:
        snapshots = [repo / "snapshots" / commit] if _COMMIT.fullmatch(commit) else []
    return snapshots[0] if len(snapshots) == 1 and _is_complete(snapshots[0]) else None


def _read_ref(ref: Path) -> str | None:
    """Return the commit that the file `ref` records, or None if there is no such file or it cannot be read."""
    with suppress(OSError):
        if ref.is_file():
            with ref.open("rb") as file:
                return file.read(100).decode(errors="replace").strip()
    return None


def _is_complete(folder: Path) -> bool:
    """Return whether a snapshot has all of its weight files. An interrupted download leaves only some.

    An index of PyTorch's own files counts only where there are no other weights: it is downloaded with every other
    small file, and the files that it lists are not, if there are safetensors.
    """
    index, pytorch_index = (folder / name for name in _INDEXES)
    if index.is_file():
        return _has_shards(index)
    has_config = (folder / "config.json").is_file()
    if (has_config and any((folder / name).is_file() for name in _SINGLE_FILES)) or any(folder.glob("*.pt")):
        return True
    return pytorch_index.is_file() and _has_shards(pytorch_index)


def _lacks(folder: Path, language: str | None, with_code: bool) -> bool:
    """Return whether a snapshot has weights for each language, but not those for `language`, or lacks code it needs."""
    if with_code and lacks_code(folder):
        return True
    return language is not None and not has_adapter(folder, language) and has_adapters(folder)


def _has_shards(index: Path) -> bool:
    """Return whether all weight files that an index lists lie beside it. An index that lists none has none."""
    shards = set()
    with suppress(OSError), index.open("rb") as file:
        shards |= set(_SHARD.findall(file.read(_MAX_INDEX_BYTES)))
    return bool(shards) and all((index.parent / name.decode()).is_file() for name in shards)


def mirror(cache_dir: Path, volume: Path = VOLUME) -> Any | None:
    """Return the RunPod SDK's VolumeCache, which copies files between `cache_dir` and a network volume.

    Return None if there is no volume, if `cache_dir` is on the volume itself, or outside a RunPod endpoint.
    """
    if not volume.is_dir() or cache_dir.resolve().is_relative_to(volume.resolve()):
        return None
    sdk = import_sdk("runpod.serverless.utils.rp_volume_cache")
    volume_cache = sdk.VolumeCache([cache_dir], volume_path=volume)
    return volume_cache if volume_cache.available else None


def _find_mirrored(
    model_id: str, cache_dir: Path, revision: str | None, volume: Path, language: str | None, with_code: bool
) -> Path | None:
    """Copy a model from the network volume into `cache_dir`. Return its folder, or None if the volume lacks it."""
    volume_mirror = mirror(cache_dir, volume)
    if volume_mirror is None:
        return None
    with _HYDRATING:  # whoever waits here may find that another thread has copied the model
        volume_mirror.hydrate()
    return find_local(model_id, cache_dir, revision, (), language, with_code)
