"""Check what the files of a checkpoint state, before anything is built or allocated by it. Knows no tensor, no layout.

Every function raises ModelUnavailable with the names of the file and of the field, what is expected and what it holds.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from handler import logs
from handler.errors import ModelUnavailable
from handler.whisper.dims import Dims

# The largest of each size, several times that of Whisper large.
_MAX_DIMS = {
    "n_mels": 256,
    "n_audio_ctx": 2**16,
    "n_audio_state": 2**14,
    "n_audio_head": 2**10,
    "n_audio_layer": 2**8,
    "n_vocab": 2**18,
    "n_text_ctx": 2**14,
    "n_text_state": 2**14,
    "n_text_head": 2**10,
    "n_text_layer": 2**8,
}
_MIN_TEXT_CTX = 16  # for the start of a prompt and a few words


def network_dims(file: str, values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Dims:
    """Return the sizes of a network.

    `values` are what `file` states, and `names` leads from each field of Dims to its name there; None if the names are
    the same.
    """
    names = names or {field.name: field.name for field in fields(Dims)}
    for field, name in names.items():
        low = _MIN_TEXT_CTX if field == "n_text_ctx" else 1
        value, high = values.get(name), _MAX_DIMS[field]
        if type(value) is not int or not low <= value <= high:
            raise ModelUnavailable(
                f"{file}: {name} must be a whole number from {low} to {high}; it is {describe(value)}"
            )
    for state, head in (("n_audio_state", "n_audio_head"), ("n_text_state", "n_text_head")):
        size, heads = values[names[state]], values[names[head]]
        if size % heads:
            raise ModelUnavailable(f"{file}: {names[head]} must divide {names[state]}, which is {size}; it is {heads}")
    return Dims(**{field: values[name] for field, name in names.items()})


def token_ids(file: str, field: str, value: object, n_vocab: int) -> tuple[int, ...]:
    """Return those ids of a list that are in the vocabulary; no other can be decoded. An absent list counts as empty.

    Some published checkpoints list ids of a larger vocabulary.
    """
    ids = _list(file, field, value)
    for token in ids:
        if type(token) is not int:
            raise ModelUnavailable(f"{file}: {field} must be a list of token ids; an item is {describe(token)}")
    return tuple(token for token in ids if 0 <= token < n_vocab)


def head_pairs(file: str, field: str, value: object, dims: Dims) -> tuple[tuple[int, int], ...]:
    """Return a list of (layer, head) pairs, which may be absent.

    If one of them is outside of the network, return none and log a warning: some published checkpoints with few layers
    list the heads of the model that they were distilled from.
    """
    pairs = []
    for pair in _list(file, field, value):
        if not isinstance(pair, list) or [type(number) for number in pair] != [int, int]:
            raise ModelUnavailable(
                f"{file}: {field} must be a list of pairs of layer and head; an item is {describe(pair)}"
            )
        pairs.append((pair[0], pair[1]))
    pairs = list(dict.fromkeys(pairs))
    if all(0 <= layer < dims.n_text_layer and 0 <= head < dims.n_text_head for layer, head in pairs):
        return tuple(pairs)
    logs.warning("alignment_heads_ignored", file=file, layers=dims.n_text_layer, heads=dims.n_text_head)
    return ()


def file_names(file: str, field: str, value: object, suffix: str) -> list[str]:
    """Return the sorted names of the files that a JSON object maps to. Each must lie in the folder of `file`."""
    if not isinstance(value, dict) or not value:
        raise ModelUnavailable(f"{file}: {field} must map tensors to files; it is {describe(value)}")
    for name in value.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(suffix):
            raise ModelUnavailable(
                f"{file}: {field} must name {suffix} files of the same folder; one is {describe(name)}"
            )
    return sorted(set(value.values()))


def describe(value: object) -> str:
    """Return a short text that shows a value of a file in a message."""
    if isinstance(value, str):
        return repr(value[:60])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**18):
        return str(value)
    return f"a value of type {type(value).__name__}"


def _list(file: str, field: str, value: object) -> list[Any]:
    """Return a list, or an empty one if `value` is None."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ModelUnavailable(f"{file}: {field} must be a list; it is {describe(value)}")
    return value
