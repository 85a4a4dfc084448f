"""Open a checkpoint of transformers, which is a config.json with safetensors files. Knows no other layout."""

from pathlib import Path

from torch import Tensor

from handler.errors import ModelUnavailable
from handler.whisper.checkpoint.config_values import describe, file_names, head_pairs, network_dims, token_ids
from handler.whisper.checkpoint.layout import (
    KINDS,
    Checkpoint,
    TensorNames,
    check_dims,
    checkpoint_errors,
    read_config,
)
from handler.whisper.checkpoint.safetensors_file import SafetensorsFile

NAMES = TensorNames(
    layer="model.{side}.layers.",
    in_layer={
        "attn_norm": "self_attn_layer_norm",
        "attn.qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
        "attn.out": "self_attn.out_proj",
        "cross_norm": "encoder_attn_layer_norm",
        "cross.q": "encoder_attn.q_proj",
        "cross.kv": "encoder_attn.k_proj encoder_attn.v_proj",
        "cross.out": "encoder_attn.out_proj",
        "mlp_norm": "final_layer_norm",
        "mlp.up": "fc1",
        "mlp.down": "fc2",
    },
    modules={
        "encoder.conv1": "model.encoder.conv1",
        "encoder.conv2": "model.encoder.conv2",
        "encoder.norm": "model.encoder.layer_norm",
        "decoder.tokens": "model.decoder.embed_tokens",
        "decoder.norm": "model.decoder.layer_norm",
    },
    tensors={
        "encoder.positions": "model.encoder.embed_positions.weight",
        "decoder.positions": "model.decoder.embed_positions.weight",
    },
)


_CONFIG, _GENERATION = "config.json", "generation_config.json"
_SIZES = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}  # fields of Dims, and their names in config.json


def open_transformers(path: Path) -> Checkpoint:
    """Open the checkpoint whose safetensors file, or index of several files, is at `path`.

    Raises ModelUnavailable if a file is missing or damaged, if a configuration has a malformed entry or does not match
    the tensors, or if the model is not Whisper.
    """
    config = read_config(path.parent, _CONFIG)
    if config.get("model_type") != "whisper":
        raise ModelUnavailable(f"{_CONFIG} names a model of type {describe(config.get('model_type'))}; {KINDS} work")
    dims = network_dims(_CONFIG, config, _SIZES)
    files = _open_files(path)
    # WhisperForConditionalGeneration writes model.encoder…, WhisperModel writes encoder…
    prefix = "" if any(name.startswith("model.") for file in files for name in file.shapes()) else "model."
    readers = {f"{prefix}{name}": file for file in files for name in file.shapes()}

    def read(name: str) -> Tensor | None:
        return readers[name].tensor(name.removeprefix(prefix)) if name in readers else None

    generation = read_config(path.parent, _GENERATION, required=False)
    file, values = (_GENERATION, generation) if "suppress_tokens" in generation else (_CONFIG, config)
    suppress = token_ids(file, "suppress_tokens", values.get("suppress_tokens"), dims.n_vocab)
    checkpoint = Checkpoint(
        file=path.name,
        names=NAMES,
        dims=dims,
        size=sum(file.size for file in files),
        read=read,
        suppress=suppress or None,
        alignment_heads=head_pairs(_GENERATION, "alignment_heads", generation.get("alignment_heads"), dims),
    )
    shapes = {f"{prefix}{name}": shape for file in files for name, shape in file.shapes().items()}
    return check_dims(checkpoint, shapes, _CONFIG, _SIZES)


def _open_files(path: Path) -> list[SafetensorsFile]:
    """Open a safetensors file, or all files that an index lists.

    Raises ModelUnavailable if the index or a safetensors file is missing or damaged.
    """
    names = [path.name]
    if path.name.endswith(".index.json"):
        weight_map = read_config(path.parent, path.name).get("weight_map")
        names = file_names(path.name, "weight_map", weight_map, ".safetensors")
    files = []
    for name in names:
        if not (path.parent / name).is_file():
            raise ModelUnavailable(f"{name} is missing from model folder {path.parent.name}")
        with checkpoint_errors(name):
            files.append(SafetensorsFile(path.parent / name))
    return files
