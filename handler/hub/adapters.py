"""Load the weights by which a checkpoint for many languages differs from one language to the next.

Source: transformers, models/wav2vec2/modeling_wav2vec2.py (load_adapter); Pratap et al., MMS, 2023.
"""

from pathlib import Path
from typing import Any

from handler.errors import ModelUnavailable

_PREFIX, _SUFFIX = "adapter.", ".safetensors"
_MAX_TOLD = 20  # languages in a message


def adapter_file(language: str) -> str:
    """Return the name of the file with the weights of a language, by the checkpoint's own name of the language."""
    return f"{_PREFIX}{language}{_SUFFIX}"


def has_adapters(model: Any) -> bool:
    """Return whether a network has weights for each language."""
    return getattr(model.config, "adapter_attn_dim", None) is not None


def load_adapter(model: Any, folder: Path, language: str) -> None:
    """Replace the weights that differ from language to language, and the layer that yields its letters.

    Raises ModelUnavailable if the folder has none for the language.
    """
    if not (folder / adapter_file(language)).is_file():
        names = sorted(path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for path in folder.glob(adapter_file("*")))
        told = ", ".join(names[:_MAX_TOLD]) + (", …" if len(names) > _MAX_TOLD else "")
        raise ModelUnavailable(
            f"MODEL_LANGUAGE={language}: {adapter_file(language)} is not there; expected one of {told or 'none'}"
        )
    model.load_adapter(language, force_load=True, local_files_only=True, use_safetensors=True)
