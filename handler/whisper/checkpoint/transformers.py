"""Open a checkpoint of transformers, which is a config.json with safetensors files. Knows no other layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from handler.errors import ModelUnavailable
from handler.whisper.checkpoint.layout import KINDS, Checkpoint, TensorNames, checkpoint_errors, head_pairs, read_config
from handler.whisper.checkpoint.safetensors_file import SafetensorsFile
from handler.whisper.dims import Dims

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


def open_transformers(path: Path) -> Checkpoint:
    """Open the checkpoint whose safetensors file, or index of several files, is at `path`.

    Raises ModelUnavailable if a file is missing or damaged or the model is not Whisper. Raises KeyError, ValueError or
    TypeError if a configuration or an index lacks an entry or has a malformed one.
    """
    config = read_config(path.parent, "config.json")
    if config.get("model_type") != "whisper":
        raise ModelUnavailable(f"config.json names a model of type {config.get('model_type')!r}; {KINDS} work")
    readers = _open_files(path)
    # WhisperForConditionalGeneration writes model.encoder…, WhisperModel writes encoder…
    has_prefix = any(name.startswith("model.") for name in readers)

    def read(name: str) -> Tensor | None:
        stored_name = name if has_prefix else name.removeprefix("model.")
        return readers[stored_name].tensor(stored_name) if stored_name in readers else None

    generation = read_config(path.parent, "generation_config.json", required=False)
    suppress = tuple(generation.get("suppress_tokens", config.get("suppress_tokens")) or ())
    return Checkpoint(
        file=path.name,
        names=NAMES,
        dims=_dims(config),
        read=read,
        suppress=suppress or None,
        alignment_heads=head_pairs(generation.get("alignment_heads")),
    )


def _open_files(path: Path) -> dict[str, SafetensorsFile]:
    """Open a safetensors file, or all files that an index lists. Return the file of each tensor, by tensor name.

    Raises ModelUnavailable if a safetensors file is missing or damaged. Raises OSError, ValueError or KeyError if the
    index is damaged.
    """
    files = {path.name: path}
    if path.name.endswith(".index.json"):
        file_names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        files = {file_name: path.parent / file_name for file_name in file_names}
    readers: dict[str, SafetensorsFile] = {}
    for file_name, file in files.items():
        if not file.is_file():
            raise ModelUnavailable(f"{file_name} is missing from model folder {path.parent.name}")
        with checkpoint_errors(file_name):
            reader = SafetensorsFile(file)
        readers |= dict.fromkeys(reader.names(), reader)
    return readers


def _dims(config: Mapping[str, Any]) -> Dims:
    """Return the sizes of the network that a config.json states. Raises KeyError if one is missing."""
    return Dims(
        n_mels=config["num_mel_bins"],
        n_audio_ctx=config["max_source_positions"],
        n_audio_state=config["d_model"],
        n_audio_head=config["encoder_attention_heads"],
        n_audio_layer=config["encoder_layers"],
        n_vocab=config["vocab_size"],
        n_text_ctx=config["max_target_positions"],
        n_text_state=config["d_model"],
        n_text_head=config["decoder_attention_heads"],
        n_text_layer=config["decoder_layers"],
    )
