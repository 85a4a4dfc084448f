"""Moonshine tiny (English, 27 million parameters, MIT) as a folder of transformers, from the package moonshine-voice.

The package carries the two halves of the network as graphs of ONNX Runtime with 8-bit matrices, and the vocabulary as a
list of byte strings. The graphs are only read: each matrix is found by the node that multiplies with it.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from tokenizers import Tokenizer, decoders, models
from transformers import (
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

HALVES = {"model.encoder.": "encoder_model.ort", "model.decoder.": "decoder_model_merged.ort"}
# Parameters that keep their names but for some additions, and matrices, by the end of the path of their node.
_NAMED = re.compile(r"(?:layers\.\d+\..+|conv\d|layer_norm|norm|embed_tokens)\.(?:weight|bias)")
_ADDITIONS = re.compile(r"_merged_0|_add_tensor|_quantized|^model\.decoder\.")
_PRODUCT = re.compile(r"(layers\.\d+/\w+/\w+)/MatMul")
_GROUP_NORM = re.compile(r"onnx::(Mul|Add)_\d+")
_RENAMED = {"self_attn.dense": "self_attn.o_proj", "encoder_attn.dense": "encoder_attn.o_proj"}
_RENAMED |= {"up_proj": "fc1", "down_proj": "fc2"}
WIDTH = 288
FIRST_BYTE = 3  # the id of the token for byte 0
START, END = 1, 2

Array = NDArray[np.float32]


def save_moonshine(assets: Path, folder: Path) -> Path:
    """Write the folder from the assets of the package, and return it."""
    config = MoonshineConfig(pad_token_id=END, max_position_embeddings=194)
    network = MoonshineForConditionalGeneration(config)
    parameters: dict[str, Array] = {}
    for prefix, file in HALVES.items():
        parameters |= {prefix + name: value for name, value in _parameters(_read_graph(assets / file))}
    parameters["proj_out.weight"] = parameters["model.decoder.embed_tokens.weight"]
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in parameters.items()})
    network.generation_config = GenerationConfig(
        bos_token_id=START, decoder_start_token_id=START, eos_token_id=END, pad_token_id=END, max_length=194
    )
    network.save_pretrained(folder)
    _tokenizer(assets / "tokenizer.bin").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n")
    return folder


def _read_graph(file: Path) -> onnx.GraphProto:
    """Return a graph of ONNX Runtime's own format, which ONNX Runtime writes as ONNX, unchanged."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.load_model_format", "ORT")
        options.add_session_config_entry("session.save_model_format", "ONNX")
        options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath).graph


def _with_branches(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _with_branches(attribute.g)


def _parameters(graph: onnx.GraphProto) -> Iterator[tuple[str, Array]]:
    """Yield each parameter of a half of the network with its name in transformers."""
    graphs = list(_with_branches(graph))
    constants = {constant.name: numpy_helper.to_array(constant) for part in graphs for constant in part.initializer}
    for name in constants:
        plain = _renamed(_ADDITIONS.sub("", name))
        if _NAMED.fullmatch(plain):
            yield plain, _floats(constants, name)
        elif (part := _GROUP_NORM.fullmatch(name)) and constants[name].shape == (WIDTH, 1):
            yield f"groupnorm.{'weight' if part[1] == 'Mul' else 'bias'}", _floats(constants, name)[:, 0]
    for node in (node for part in graphs for node in part.node):
        matrix = node.input[1] if len(node.input) > 1 else ""
        if (product := _PRODUCT.search(node.name)) and matrix in constants and matrix.endswith("_quantized"):
            yield f"{_renamed(product[1].replace('/', '.'))}.weight", _floats(constants, matrix).T


def _floats(constants: dict[str, NDArray[np.generic]], name: str) -> Array:
    """Return a constant as numbers. Of a quantized one, the scale and the zero point have names of their own."""
    values = np.asarray(constants[name], np.float32)
    if not name.endswith("_quantized"):
        return values
    scale, zero = (np.asarray(constants[name.replace("_quantized", end)]) for end in ("_scale", "_zero_point"))
    if zero.dtype == np.float32:  # of a convolution, whose offset is added after scaling
        return np.asarray(values * scale + zero, np.float32)
    return np.asarray((values - zero.astype(np.float32)) * scale, np.float32)


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Return a tokenizer that can decode: the vocabulary is stored, and the order of merging is not."""
    names = [
        f"<0x{token - FIRST_BYTE:02X}>" if FIRST_BYTE <= token < FIRST_BYTE + 256 else piece.decode()
        for token, piece in enumerate(_byte_strings(file.read_bytes()))
    ]
    vocabulary = {name: token for token, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    space = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(space)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def _byte_strings(data: bytes) -> Iterator[bytes]:
    """Yield byte strings, each after its length in one byte, or in two if the highest bit of the first is set."""
    position = 0
    while position < len(data):
        length = data[position]
        position += 1
        if length >= 128:
            length += (data[position] << 7) - 128
            position += 1
        yield data[position : position + length]
        position += length
