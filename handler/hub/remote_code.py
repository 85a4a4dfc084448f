"""Checkpoints that bring code of their own. It runs only if the settings allow it. Knows no network.

Such a checkpoint names its classes under `auto_map` in config.json, each as MODULE.CLASS of a Python file beside it.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.errors import ModelUnavailable
from handler.hub.auto_map import foreign_code
from handler.hub.families import FAMILIES, Family, Form, Kind

KINDS = {"AutoModelForCTC": Kind.CTC, "AutoModelForSpeechSeq2Seq": Kind.GENERATE}


def brings_code(model_type: str, config: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint has to bring its networks: `transformers` has none for its `model_type`."""
    return model_type not in FAMILIES and isinstance(config.get("auto_map"), dict)


def family_of_code(model_type: str, config: Mapping[str, Any]) -> tuple[Family, str]:
    """Return the family of a checkpoint that brings code, and its class for the network, as MODULE.CLASS.

    What the code does with padding is unknown, so windows of different lengths do not share a batch.
    Raises ModelUnavailable if the code recognizes no speech.
    """
    names = config["auto_map"]
    name = next((name for name in KINDS if isinstance(names.get(name), str)), None)
    if name is None:
        found, expected = ", ".join(sorted(map(str, names))), " or ".join(KINDS)
        raise ModelUnavailable(f"model_type {model_type} brings code for {found}: expected {expected}")
    return Family(KINDS[name], form=Form.PLAIN, pads=False), names[name]


def check_own_code(folder: Path, model_type: str) -> None:
    """Raise ModelUnavailable if code would run that lies in another repository, whose revision nobody has named."""
    if (name := foreign_code(folder)) is not None:
        raise ModelUnavailable(f"model_type {model_type} runs code of another repository, {name}: expected its own")


def no_permission(model_type: str) -> ModelUnavailable:
    """Return the error for a checkpoint whose code may not run."""
    return ModelUnavailable(
        f"model_type {model_type} needs the code that its checkpoint brings: TRUST_REMOTE_CODE=1 runs it"
    )


def prepare_folder() -> None:
    """Have `transformers` copy the code that it imports to a folder of this process. Call it before the import.

    Its own folder is that of the user, who may have none, and processes that start together would share it.
    """
    folder = tempfile.mkdtemp(prefix="asr-code-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["HF_MODULES_CACHE"] = folder
