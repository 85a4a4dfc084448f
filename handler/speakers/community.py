"""Make a folder of pyannote's models community-1 as the package moonshine-voice carries them. Knows no request.

The package is read and not run: its shared library holds both networks as constants, in ONNX Runtime's format. They
are pyannote's segmentation and WeSpeaker's embedding of VoxCeleb (CC-BY-4.0, pyannote), with weights as bytes, of which
each has a scale and an offset.
"""

import struct
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.errors import ModelUnavailable
from handler.speakers.embedding_network import EmbeddingNetwork
from handler.speakers.loading import EMBEDDING, SEGMENTATION, WEIGHTS

PACKAGE = "moonshine_voice"
_LIBRARY = "libmoonshine.so"
_NAMES = {SEGMENTATION: b"segmentation_ort_dataE", EMBEDDING: b"embedding_ort_dataE"}  # how their symbols end
_DYNAMIC_SYMBOLS = 11  # the type of a section
_MIN_HZ, _MAX_HZ = 50.0, 8000.0  # of the segmentation's first filters
_HIDDEN = 128  # size of its recurrent layers
Weights = dict[str, NDArray[np.float32]]


def write_folder(folder: Path) -> None:
    """Write the weights of both networks to `folder`. Raises ModelUnavailable if a package is not installed."""
    from safetensors.numpy import save_file

    try:
        models = _models()
        tensors = _tensors(models)
    except ModelUnavailable:
        raise
    except Exception as exc:  # whatever the readers of these formats say to other bytes than those of version 0.0.73
        expected = "speaker models as moonshine-voice==0.0.73 has them"
        raise ModelUnavailable(f"DIARIZE_MODEL=pkg:{PACKAGE}: expected {expected}; {type(exc).__name__}") from exc
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, folder / WEIGHTS)


def _tensors(models: dict[str, Any]) -> Weights:
    """Return the weights of both networks, each under its prefix."""
    tensors = {f"{SEGMENTATION}{name}": value for name, value in _segmentation(models[SEGMENTATION]).items()}
    tensors |= {f"{EMBEDDING}{name}": value for name, value in _embedding(models[EMBEDDING]).items()}
    return tensors


def _models() -> dict[str, Any]:
    """Return the graphs of both networks."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable(f"DIARIZE_MODEL=pkg:{PACKAGE}: the package moonshine-voice==0.0.73 is not installed")
    try:
        import onnx
        import onnxruntime
    except ImportError as exc:
        raise ModelUnavailable(f"DIARIZE_MODEL=pkg:{PACKAGE}: reading it needs onnx and onnxruntime") from exc
    library = (Path(spec.submodule_search_locations[0]) / _LIBRARY).read_bytes()
    found: dict[str, bytes] = {}
    for name, content in _constants(library):
        found |= {prefix: content for prefix, end in _NAMES.items() if name.endswith(end)}
    if found.keys() != _NAMES.keys():
        raise ModelUnavailable(f"DIARIZE_MODEL=pkg:{PACKAGE}: this version has no speaker models; expected 0.0.73")
    graphs: dict[str, Any] = {}
    for prefix, content in found.items():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ORT")
        options.add_session_config_entry("session.save_model_format", "ONNX")
        with tempfile.TemporaryDirectory() as draft:
            options.optimized_model_filepath = f"{draft}/model.onnx"
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            graphs[prefix] = onnx.load(options.optimized_model_filepath).graph
    return graphs


def _constants(library: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and content of each constant that an ELF library of 64 bits exports. Source: man 5 elf."""
    (at,) = struct.unpack_from("<Q", library, 40)
    size, count = struct.unpack_from("<HH", library, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", library, at + number * size) for number in range(count)]
    for _, kind, _, _, offset, length, link, _, _, entry_size in sections:
        if kind != _DYNAMIC_SYMBOLS:
            continue
        names = sections[link][4]
        for entry in range(offset, offset + length, entry_size):
            name, _, _, section, value, num_bytes = struct.unpack_from("<IBBHQQ", library, entry)
            if num_bytes and 0 < section < count:
                start = value - sections[section][3] + sections[section][4]
                yield library[names + name : library.index(b"\0", names + name)], library[start : start + num_bytes]


class _Graph:
    """The nodes and weights of one network."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def of(self, kind: str) -> list[Any]:
        """Return the nodes of a kind, in their order."""
        return [node for node in self.nodes if node.op_type == kind]

    def weight(self, name: str) -> NDArray[np.float32]:
        """Return a weight, which a node may have computed from bytes, a scale and an offset."""
        if name in self.weights:
            return self.weights[name]  # type: ignore[no-any-return]
        base = name.removesuffix("_add_tensor")
        levels, scale, offset = (self.weights[f"{base}_{part}"] for part in ("quantized", "scale", "zero_point"))
        return levels.astype(np.float32) * scale + offset  # type: ignore[no-any-return]


def _segmentation(graph: Any) -> Weights:
    """Return the weights of SegmentationNetwork."""
    source = _Graph(graph)
    at = "inner.sincnet."
    weights: Weights = {"filters": _filters(source, f"{at}conv1d.0.filterbank.")}
    for part in ("weight", "bias"):
        weights[f"sample_norm.{part}"] = source.weight(f"{at}wav_norm1d.{part}")
        for number in range(3):
            weights[f"norms.{number}.{part}"] = source.weight(f"{at}norm1d.{number}.{part}")
    for number in (1, 2):
        weights[f"conv{number}.weight"] = source.weight(f"{at}conv1d.{number}.weight_add_tensor")
        weights[f"conv{number}.bias"] = source.weight(f"{at}conv1d.{number}.bias")
    for layer, node in enumerate(source.of("LSTM")):
        weights |= _recurrent(layer, *(source.weight(name) for name in node.input[1:4]))
    products = [node for node in source.of("MatMul") if "MatMul" in node.input[1]]
    for name, node in zip(("linear1", "linear2", "classifier"), products, strict=True):
        weights[f"{name}.weight"] = source.weight(node.input[1]).T
    for name, bias in (("linear1", "linear.0"), ("linear2", "linear.1"), ("classifier", "classifier")):
        weights[f"{name}.bias"] = source.weight(f"inner.{bias}.bias")
    return weights


def _recurrent(
    layer: int, of_input: NDArray[np.float32], of_hidden: NDArray[np.float32], biases: NDArray[np.float32]
) -> Weights:
    """Return the weights of a recurrent layer in both directions, with PyTorch's names and order of gates."""
    weights: Weights = {}
    for direction, end in enumerate(("", "_reverse")):
        weights[f"lstm.weight_ih_l{layer}{end}"] = _gates(of_input[direction])
        weights[f"lstm.weight_hh_l{layer}{end}"] = _gates(of_hidden[direction])
        weights[f"lstm.bias_ih_l{layer}{end}"] = _gates(biases[direction, : 4 * _HIDDEN])
        weights[f"lstm.bias_hh_l{layer}{end}"] = _gates(biases[direction, 4 * _HIDDEN :])
    return weights


def _gates(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put the gates input, output, forget, cell into PyTorch's order: input, forget, cell, output."""
    entering, leaving, kept, cell = np.split(weight, 4)
    return np.concatenate((entering, kept, cell, leaving))


def _filters(source: _Graph, at: str) -> NDArray[np.float32]:
    """Return the first filters, which two frequencies each describe. [80, 1, 251]

    Source: asteroid-filterbanks, param_sinc_fb.py; Ravanelli and Bengio, Speaker recognition from raw waveform with
    SincNet, 2018.
    """
    times, window = source.weight(f"{at}n_"), source.weight(f"{at}window_")
    low = _MIN_HZ + np.abs(source.weight(f"{at}low_hz_"))
    high = np.clip(low + _MIN_HZ + np.abs(source.weight(f"{at}band_hz_")), _MIN_HZ, _MAX_HZ)
    band = high - low
    even = (np.sin(high @ times) - np.sin(low @ times)) / (times / 2) * window
    odd = (np.cos(low @ times) - np.cos(high @ times)) / (times / 2) * window
    symmetric = np.concatenate((even, 2 * band, even[:, ::-1]), 1)
    antisymmetric = np.concatenate((odd, np.zeros_like(band), -odd[:, ::-1]), 1)
    filters = np.concatenate((symmetric / (2 * band), antisymmetric / (2 * band)))
    return filters[:, None].astype(np.float32)


def _embedding(graph: Any) -> Weights:
    """Return the weights of EmbeddingNetwork, whose convolutions are in the order in which they are computed."""
    source = _Graph(graph)
    network = EmbeddingNetwork()
    names = ["conv"]
    for number, block in enumerate(network.blocks):
        names += [f"blocks.{number}.{part}" for part in ("conv1", "conv2")]
        names += [] if block.shortcut is None else [f"blocks.{number}.shortcut"]
    weights: Weights = {}
    for name, node in zip(names, source.of("Conv"), strict=True):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = (source.weight(part) for part in node.input[1:3])
    (product,) = source.of("Gemm")
    weights["linear.weight"], weights["linear.bias"] = (source.weight(part) for part in product.input[1:3])
    return weights
