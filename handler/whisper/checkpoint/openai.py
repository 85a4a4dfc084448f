"""Open an openai-whisper checkpoint, which is a single .pt file. Knows no other layout."""

import pickletools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from handler.whisper.checkpoint.config_values import describe, network_dims
from handler.whisper.checkpoint.layout import Checkpoint, TensorNames, check_dims

NAMES = TensorNames(
    layer="{side}.blocks.",
    in_layer={
        "attn_norm": "attn_ln",
        "attn.qkv": "attn.query attn.key attn.value",
        "attn.out": "attn.out",
        "cross_norm": "cross_attn_ln",
        "cross.q": "cross_attn.query",
        "cross.kv": "cross_attn.key cross_attn.value",
        "cross.out": "cross_attn.out",
        "mlp_norm": "mlp_ln",
        "mlp.up": "mlp.0",
        "mlp.down": "mlp.2",
    },
    modules={
        "encoder.conv1": "encoder.conv1",
        "encoder.conv2": "encoder.conv2",
        "encoder.norm": "encoder.ln_post",
        "decoder.tokens": "decoder.token_embedding",
        "decoder.norm": "decoder.ln",
    },
    tensors={
        "encoder.positions": "encoder.positional_embedding",
        "decoder.positions": "decoder.positional_embedding",
    },
)


_ENTRIES = ("dims", "model_state_dict")
_PICKLE_BYTES = 8 * 1024**2  # most that the description of all tensors may take; that of Whisper large takes 150 kB
_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch BFloat16Storage",
    "torch DoubleStorage",
    "torch FloatStorage",
    "torch HalfStorage",
}  # everything that a checkpoint of tensors refers to


def open_openai(path: Path) -> Checkpoint:
    """Open the .pt file at `path` without running any code that it contains.

    Raises ModelUnavailable if a size of the network is missing, malformed or does not match the tensors, and ValueError
    or BadZipFile if the file holds no Whisper checkpoint. Also raises the errors of torch.load.
    """
    _check_archive(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not (isinstance(content, dict) and all(isinstance(content.get(name), dict) for name in _ENTRIES)):
        raise ValueError(f"expected the entries {' and '.join(_ENTRIES)}")
    dims, tensors = (content[name] for name in _ENTRIES)
    for name, tensor in tensors.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise ValueError(f"expected tensors with names; {describe(name)} is none")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dims = network_dims(path.name, dims)
    checkpoint = Checkpoint(path.name, NAMES, dims, path.stat().st_size, partial(_read, tensors))
    return check_dims(checkpoint, shapes, path.name)


def _check_archive(path: Path) -> None:
    """Check that a .pt file asks for nothing but tensors, and for no more memory than the file takes.

    torch.load believes what the archive says about sizes, and lets a pickle allocate memory of its choice. Raises
    BadZipFile or ValueError.
    """
    size = path.stat().st_size
    with ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type != ZIP_STORED or max(info.file_size, info.compress_size) > size:
                raise ValueError(f"expected uncompressed parts inside of the file; {info.filename} is none")
        (info,) = (info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
        if info.file_size > _PICKLE_BYTES:
            raise ValueError(f"expected at most {_PICKLE_BYTES} bytes in {info.filename}")
        description = archive.read(info)
    found = {argument for opcode, argument, _ in pickletools.genops(description) if opcode.name == "GLOBAL"}
    if surplus := found - _GLOBALS:
        raise ValueError(f"expected tensors alone; found {describe(min(map(str, surplus)))}")


def _read(tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Return a tensor, or None if there is no tensor of this name. Raises ValueError if it holds no plain numbers."""
    tensor = tensors.get(name)
    if tensor is not None and not (tensor.layout == torch.strided and tensor.is_floating_point()):
        raise ValueError(f"{name} is of type {tensor.dtype}, expected floating-point numbers")
    return None if tensor is None else tensor.detach()
