"""Read a Whisper checkpoint of any of three layouts into the network. Knows no audio and no decoding.

The layouts are those of transformers (config.json with safetensors files), openai-whisper (one .pt file) and
CTranslate2 (one model.bin). A layout provides a table of tensor names and a function that reads a single tensor. `load`
reads all tensors, concatenates those that the network holds as one, scales the query projections, and checks every
shape.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from handler import logs
from handler.engine.cpu_tuning import use_one_thread
from handler.errors import ModelUnavailable
from handler.whisper.checkpoint.conversion_cache import READERS, ConversionCache
from handler.whisper.checkpoint.ctranslate2 import open_ctranslate2
from handler.whisper.checkpoint.layout import KINDS, Checkpoint, checkpoint_errors
from handler.whisper.checkpoint.openai import open_openai
from handler.whisper.checkpoint.safetensors_file import SafetensorsFile
from handler.whisper.checkpoint.transformers import open_transformers
from handler.whisper.layers import Linear, can_pack
from handler.whisper.model import Whisper

# File name pattern of each layout, and the function that opens a checkpoint of this layout. The first match counts.
LAYOUTS = (
    ("model.safetensors", open_transformers),
    ("model.safetensors.index.json", open_transformers),
    ("model.bin", open_ctranslate2),
    ("*.pt", open_openai),
)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Detect the layout of the checkpoint in a folder, and open the checkpoint.

    Raises ModelUnavailable, with the name of the file or folder that is missing or damaged.
    """
    if not folder.is_dir():
        raise ModelUnavailable(f"model folder {folder.name} does not exist")
    for pattern, opener in LAYOUTS:
        if files := sorted(file for file in folder.glob(pattern) if file.is_file()):
            with checkpoint_errors(files[0].name):
                return opener(files[0])
    raise ModelUnavailable(
        f"model folder {folder.name} has no weights: expected model.safetensors, model.bin or a .pt file; {KINDS} work"
    )


def load(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    conversion_cache: ConversionCache | None = None,
) -> Whisper:
    """Return the network of a checkpoint with its weights on `device` in `dtype`.

    If `conversion_cache` holds a verified conversion to `dtype`, the weights are read from the conversion. Otherwise
    they are read from the checkpoint, and scheduled to be written to the cache if there is one. Raises ModelUnavailable
    if a tensor is missing, unreadable or of the wrong shape.
    """
    with torch.device("meta"):
        model = Whisper(checkpoint.dims)
    num_weights = sum(tensor.numel() for tensor in model.state_dict().values())
    if num_weights > checkpoint.size:  # a weight takes a byte or more
        raise ModelUnavailable(f"{checkpoint.file} has {checkpoint.size} bytes, too few for {num_weights} weights")
    dtype_name = str(dtype).removeprefix("torch.")
    file = conversion_cache.file(dtype_name) if conversion_cache else None
    tensors = _read_conversion(model, file, device, dtype) if file else None
    if tensors is None:
        with checkpoint_errors(checkpoint.file):
            tensors = _read_tensors(model, partial(_convert, checkpoint), device, dtype)
        if conversion_cache:
            conversion_cache.schedule_write(dtype_name, tensors)
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(False).eval()


def _read_conversion(model: Whisper, file: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor] | None:
    """Return the tensors of the converted checkpoint in `file`.

    If the file can no longer be read, because another process has removed or replaced it, log a warning and return
    None.
    """
    try:
        with checkpoint_errors(file.name):
            return _read_tensors(model, SafetensorsFile(file).tensor, device, dtype)
    except ModelUnavailable as exc:
        logs.warning("kept_checkpoint_unreadable", folder=str(file.parent), reason=exc.message)
        return None


def _read_tensors(
    model: Whisper, read: Callable[[str], Tensor], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Read all tensors of a network with several threads, and return them by name.

    `read` is called with the name of each tensor in the network and returns the tensor. Raises ValueError if a tensor
    has the wrong shape. Also raises the errors of `read`.
    """
    linear_names = [name for name, module in model.named_modules() if isinstance(module, Linear)]
    linear_weights = {f"{name}.weight" for name in linear_names}

    def read_tensor(name: str, expected: Tensor) -> Tensor:
        tensor = read(name)
        if tensor.shape != expected.shape:
            raise ValueError(f"{name} is {list(tensor.shape)}, expected {list(expected.shape)}")
        converted = tensor.to(device=device, dtype=dtype)
        if converted is not tensor or converted.device.type != "cpu":
            return converted
        if name in linear_weights and converted.dtype == torch.bfloat16 and can_pack(converted):
            return converted  # copied soon, when it is packed; in float32, packing may leave it as it is
        return tensor.clone()  # mapped memory would fail if the file were truncated, and its pages may be evicted

    expected = model.state_dict()
    with ThreadPoolExecutor(READERS, initializer=use_one_thread) as readers:
        return dict(zip(expected, readers.map(read_tensor, expected, expected.values()), strict=True))


def _convert(checkpoint: Checkpoint, name: str) -> Tensor:
    """Return the network's tensor of the given name, made from tensors of the checkpoint.

    Tensors that the network holds as one are concatenated, and query projections are scaled. Raises ValueError if the
    checkpoint lacks a tensor.
    """
    names = checkpoint.names
    if name in names.tensors:
        return _required(checkpoint, names.tensors[name])
    module, _, kind = name.rpartition(".")
    parts = [_parameter(checkpoint, source, kind) for source in names.modules_of(module)]
    tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
    if module.endswith(("attn.qkv", "cross.q")):
        return _scale_queries(checkpoint, module, tensor)
    return tensor


def _scale_queries(checkpoint: Checkpoint, module: str, tensor: Tensor) -> Tensor:
    """Multiply the query rows of a weight or bias by 1 / sqrt(channels per head).

    `module` is a query projection, or a joint projection whose first rows are those of the queries. With scaled
    queries, attention needs no scale.
    """
    dims = checkpoint.dims
    state, heads = dims.n_text_state, dims.n_text_head
    if module.startswith("encoder"):
        state, heads = dims.n_audio_state, dims.n_audio_head
    if tensor.dtype == torch.float16:
        tensor = tensor.float()  # the smallest float16 numbers would lose bits
    scale: float = (state // heads) ** -0.5  # exact in every published size, where it is 1/8
    if len(tensor) == state:
        return tensor * scale  # not in place, since the tensor may belong to the checkpoint
    tensor[:state] *= scale
    return tensor


def _parameter(checkpoint: Checkpoint, module: str, kind: str) -> Tensor:
    """Return the weight or bias of a module of the checkpoint.

    Key projections of Whisper have no bias, so zeros are returned for this bias. Raises ValueError if any other tensor
    is missing.
    """
    tensor = checkpoint.read(checkpoint.names.parameter(module, kind))
    if tensor is not None:
        return tensor
    if kind == "bias" and module.endswith(("k_proj", "key")):
        return torch.zeros(_required(checkpoint, checkpoint.names.parameter(module, "weight")).shape[0])
    return _required(checkpoint, checkpoint.names.parameter(module, kind))


def _required(checkpoint: Checkpoint, name: str) -> Tensor:
    """Return a tensor of the checkpoint. Raises ValueError if there is no tensor of this name."""
    tensor = checkpoint.read(name)
    if tensor is None:
        raise ValueError(f"it has no tensor {name}")
    return tensor
