"""Open a checkpoint of `transformers`: config.json with safetensors files. Knows no other layout."""

import json
from pathlib import Path

from torch import Tensor

from handler.errors import ModelUnavailable
from handler.whisper.checkpoint.layout import KINDS, Checkpoint, TensorNames, faults_of, head_pairs, read_config
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
    """Open the safetensors file, or the index of several, at `path`. Raises ModelUnavailable, and what its readers raise."""
    config = read_config(path.parent, "config.json")
    if config.get("model_type") != "whisper":
        raise ModelUnavailable(f"config.json names a model of type {config.get('model_type')!r}; {KINDS} work")
    files = {path.name: path}
    if path.name.endswith(".index.json"):
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        files = {name: path.parent / name for name in names}
    readers = []
    for name, file in files.items():
        if not file.is_file():
            raise ModelUnavailable(f"{name} is missing from model folder {path.parent.name}")
        with faults_of(name):
            readers.append(SafetensorsFile(file))
    where = {key: reader for reader in readers for key in reader.names()}
    # WhisperForConditionalGeneration says model.encoder…, WhisperModel says encoder…
    short = "" if any(key.startswith("model.") for key in where) else "model."

    def read(key: str) -> Tensor | None:
        key = key.removeprefix(short)
        return where[key].tensor(key) if key in where else None

    generation = read_config(path.parent, "generation_config.json", required=False)
    suppress = generation.get("suppress_tokens", config.get("suppress_tokens"))
    return Checkpoint(
        path.name,
        NAMES,
        Dims(
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
        ),
        read,
        tuple(suppress) if suppress else None,
        head_pairs(generation.get("alignment_heads")),
    )
