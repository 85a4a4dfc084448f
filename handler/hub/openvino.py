"""Run the networks of CTC checkpoints by OpenVINO on a processor, with optimum-intel. Knows no window and no token.

A checkpoint is exported once, with weights of 8 bits, and kept with checksums.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handler import logs
from handler.engine.cpu_tuning import usable_threads
from handler.engine.fingerprint import fingerprint
from handler.engine.json_file import read_json
from handler.engine.kept_folders import new_folder
from handler.errors import ModelUnavailable
from handler.hub.openvino_export import keep_silent
from handler.settings import Settings, SettingsError

# What optimum-intel exports of the families here. Source: optimum-intel 2.2, exporters/openvino/model_configs.py.
EXPORTABLE = (
    *("data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat"),
    *("wav2vec2", "wav2vec2-conformer", "wavlm"),
)
FORMAT = 1  # version of what is kept; other versions are ignored
_SUMS = "sums.json"
_WEIGHTS = ("*.safetensors", "*.bin")
_MAX_REASON = 300  # characters of an error


class OpenVinoNetwork:
    """A CTC network that OpenVINO runs, with what a network of `transformers` has for those who call it."""

    device = torch.device("cpu")
    dtype = torch.float32  # of what it takes and returns

    def __init__(self, network: Any, model_class: Any) -> None:
        """Wrap an OVModelForCTC. `model_class` is the class of `transformers` for the same network."""
        self.config = network.config
        self._network = network
        self._model_class = model_class

    def __call__(self, **inputs: Tensor) -> Any:
        """Return an object with the logits [B, T, V] of inputs by their names."""
        return self._network(**inputs)

    def _get_feat_extract_output_lengths(self, lengths: Tensor) -> Any:
        """Return the number of output frames for each number of samples, as the network of `transformers` does."""
        return self._model_class._get_feat_extract_output_lengths(self, lengths)


def check_openvino(model_type: str, settings: Settings, device: torch.device, adapter: str | None) -> str:
    """Return the number format of the weights, int8 or float32, if OpenVINO can run a family as the settings demand.

    `adapter` is the language whose weights are to be added to those of the checkpoint, if they are. Raises
    SettingsError or ModelUnavailable.
    """
    if model_type not in EXPORTABLE:
        expected = f"pytorch: of model_type {model_type} no export is known, only of {', '.join(EXPORTABLE)}"
        raise SettingsError("BACKEND", settings.backend, expected)
    if device.type != "cpu":
        raise SettingsError("BACKEND", settings.backend, "pytorch on a GPU, or DEVICE=cpu")
    if adapter is not None:
        raise SettingsError("BACKEND", settings.backend, "pytorch for a checkpoint with weights for each language")
    if settings.dtype not in ("auto", "float32"):
        raise SettingsError("DTYPE", settings.dtype, "auto, for weights of 8 bits, or float32 with BACKEND=openvino")
    if find_spec("optimum") is None or find_spec("openvino") is None:
        install = "pip install '.[openvino]' -c constraints-openvino.txt"
        raise ModelUnavailable(f"BACKEND=openvino needs optimum-intel: {install}")
    return "int8" if settings.dtype == "auto" else "float32"


def load_openvino(folder: Path, model_class: Any, number_format: str, kept_in: Sequence[Path]) -> OpenVinoNetwork:
    """Return the network of the checkpoint in `folder`, which is exported if no export is kept.

    Exports are looked for in all folders `kept_in`, and written to the last one; where that cannot be, a temporary
    folder does for this process. Raises ModelUnavailable.
    """
    keep_silent()
    from optimum.intel import OVModelForCTC

    name = f"{_key(folder)}/openvino-{number_format}"
    places = [parent / "converted" / name for parent in kept_in]
    exported = next((place for place in places if _is_intact(place)), None)
    with tempfile.TemporaryDirectory(prefix="asr-openvino-") as draft:
        if exported is None:
            exported = _keep(_export(folder, Path(draft) / "model", number_format), places[-1])
        options = {"INFERENCE_NUM_THREADS": str(usable_threads()), "PERFORMANCE_HINT": "LATENCY"}
        if number_format == "float32":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        network = OVModelForCTC.from_pretrained(exported, device="CPU", compile=True, ov_config=options)
    return OpenVinoNetwork(network, model_class)


def _key(folder: Path) -> str:
    """Return the name of the folder for what is exported of a checkpoint, with these versions of the exporters."""
    weights = next((files for pattern in _WEIGHTS if (files := sorted(folder.glob(pattern)))), [])
    parts = [*map(fingerprint, weights), (folder / "config.json").read_text()]
    parts += [str(FORMAT), version("optimum-intel"), version("openvino")]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:24]


def _export(checkpoint: Path, folder: Path, number_format: str) -> Path:
    """Export a checkpoint to `folder` in a process of its own, and return the folder. Raises ModelUnavailable."""
    logs.info("export_started", model=checkpoint.name, format=number_format)
    command = [sys.executable, "-P", "-m", "handler.hub.openvino_export", str(checkpoint), str(folder), number_format]
    done = subprocess.run(  # noqa: S603 - no part of the command comes from outside
        command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ModelUnavailable(f"OpenVINO does not take the checkpoint: {reason[:_MAX_REASON]}")
    logs.info("export_finished", model=checkpoint.name, format=number_format)
    return folder


def _environment() -> dict[str, str]:
    """Return the environment of the exporting process: where modules are found, and nothing that is secret."""
    kept = ("PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    return {**own, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _keep(exported: Path, place: Path) -> Path:
    """Move an export to its place, with checksums, and return where it lies: as it was, if that fails."""
    try:
        with new_folder(place) as draft:
            shutil.copytree(exported, draft, dirs_exist_ok=True)
            (draft / _SUMS).write_text(json.dumps(_sums(draft)))
    except OSError as exc:
        if not _is_intact(place):  # otherwise another process has written it first
            logs.warning("conversion_not_kept", folder=str(place), reason=exc.strerror or str(exc))
            return exported
    return place


def _is_intact(place: Path) -> bool:
    """Return whether an export is there, and as it was written. A damaged one is removed, with a warning."""
    if not place.is_dir():
        return False
    try:
        is_intact = (place / _SUMS).is_file() and read_json(place / _SUMS) == _sums(place)
    except ValueError:
        is_intact = False
    except OSError as exc:
        logs.warning("kept_checkpoint_unreadable", folder=str(place), reason=exc.strerror)
        return False
    if is_intact:
        with suppress(OSError):  # a read-only folder, from which nothing is removed
            os.utime(place.parent)
    else:
        logs.warning("kept_checkpoint_damaged", folder=str(place))
        shutil.rmtree(place, ignore_errors=True)
    return is_intact


def _sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an export by its name. Raises OSError."""
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.name != _SUMS:
            with path.open("rb") as file:
                sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums
