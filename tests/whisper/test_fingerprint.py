"""Fingerprints of checkpoint files, the names that layouts give to the network, and what a bad file is told."""

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch

from handler.engine.fingerprint import SAMPLE_BYTES, fingerprint
from handler.engine.json_file import MAX_JSON_BYTES
from handler.errors import ModelUnavailable
from handler.whisper.checkpoint import ctranslate2, openai, transformers
from handler.whisper.checkpoint.layout import TensorNames, checkpoint_errors, read_config, summarize_error
from handler.whisper.model import Whisper
from tests.whisper.test_model import SMALL

MODIFIED = 1_700_000_000  # s
SIZE = 5 * SAMPLE_BYTES


def write(file: Path, content: bytes, modified: float = MODIFIED) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (modified, modified))
    return file


def content_of(size: int, changed: int | None = None) -> bytes:
    """Return bytes that do not repeat within a sample, with one of them changed."""
    content = bytearray(hashlib.shake_256(b"weights").digest(size))
    if changed is not None:
        content[changed] ^= 1
    return bytes(content)


@pytest.mark.parametrize("size", [0, 1, 1000, SAMPLE_BYTES, SAMPLE_BYTES + 1, 2 * SAMPLE_BYTES - 1, SIZE])
def test_a_fingerprint_is_that_of_its_definition(tmp_path: Path, size: int) -> None:
    content = content_of(size)
    samples = content[:SAMPLE_BYTES] + content[size // 2 :][:SAMPLE_BYTES] + content[-SAMPLE_BYTES:]
    expected = hashlib.sha256(f"model.bin {size} {MODIFIED}".encode() + samples).hexdigest()
    assert fingerprint(write(tmp_path / "model.bin", content)) == expected


@pytest.mark.parametrize(
    "changed", [0, SAMPLE_BYTES - 1, SIZE // 2, SIZE // 2 + SAMPLE_BYTES - 1, SIZE - SAMPLE_BYTES, SIZE - 1]
)
def test_one_other_byte_in_a_sample_is_another_checkpoint(tmp_path: Path, changed: int) -> None:
    original = fingerprint(write(tmp_path / "model.bin", content_of(SIZE)))
    assert fingerprint(write(tmp_path / "model.bin", content_of(SIZE, changed))) != original


@pytest.mark.parametrize("changed", [0, 500, 999])
def test_every_byte_of_a_small_file_counts(tmp_path: Path, changed: int) -> None:
    original = fingerprint(write(tmp_path / "model.bin", content_of(1000)))
    assert fingerprint(write(tmp_path / "model.bin", content_of(1000, changed))) != original


def test_a_copy_in_another_folder_is_the_same_checkpoint(tmp_path: Path) -> None:
    first, second = (write(tmp_path / folder / "model.bin", content_of(1000)) for folder in ("a", "b"))
    assert fingerprint(first) == fingerprint(second)


def test_name_size_and_time_tell_checkpoints_apart_and_fractions_of_a_second_do_not(tmp_path: Path) -> None:
    original = fingerprint(write(tmp_path / "model.bin", bytes(1000)))
    assert fingerprint(write(tmp_path / "model.bin", bytes(1000), MODIFIED + 0.75)) == original
    others = {
        fingerprint(write(tmp_path / "model.bin", bytes(1000), MODIFIED + 1)),
        fingerprint(write(tmp_path / "model.bin", bytes(1001))),
        fingerprint(write(tmp_path / "other.bin", bytes(1000))),
    }
    assert len({original, *others}) == 4


def test_a_missing_file_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "model.bin")


def names_in(layout: TensorNames) -> set[str]:
    """Return the layout's names of all parameters of a small network."""
    with torch.device("meta"):
        network = Whisper(SMALL)
    names: set[str] = set()
    for name, _ in network.named_parameters():
        module, _, kind = name.rpartition(".")
        if name in layout.tensors:
            names.add(layout.tensors[name])
        else:
            names |= {layout.parameter(part, kind) for part in layout.modules_of(module)}
    return names


def test_the_names_of_openai_whisper_are_those_of_its_network() -> None:
    from whisper.model import ModelDimensions
    from whisper.model import Whisper as OpenAIWhisper

    dims = {name: getattr(SMALL, name) for name in SMALL.__slots__}
    expected = set(OpenAIWhisper(ModelDimensions(**dims)).state_dict())
    names = names_in(openai.NAMES) | set(openai.NAMES.tensors.values())
    assert expected <= names
    assert all(name.endswith(".key.bias") for name in names - expected)  # our keys are fused with what has a bias


@pytest.mark.parametrize(
    ("module", "kind", "names"),
    [
        ("encoder.conv1", "bias", ["encoder/conv1/bias"]),
        ("encoder.layers.0.attn.qkv", "weight", ["encoder/layer_0/self_attention/linear_0/weight"]),
        ("decoder.layers.11.cross.kv", "bias", ["decoder/layer_11/attention/linear_1/bias"]),
        ("decoder.layers.3.mlp_norm", "weight", ["decoder/layer_3/ffn/layer_norm/gamma"]),
        ("decoder.norm", "bias", ["decoder/layer_norm/beta"]),
    ],
)
def test_the_names_of_ctranslate2_have_slashes_and_norms_of_their_own(module: str, kind: str, names: list[str]) -> None:
    assert [ctranslate2.NAMES.parameter(part, kind) for part in ctranslate2.NAMES.modules_of(module)] == names


def test_fused_modules_are_named_in_the_order_in_which_they_are_joined() -> None:
    attention = "model.decoder.layers.2.self_attn"
    expected = [f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"]
    assert transformers.NAMES.modules_of("decoder.layers.2.attn.qkv") == expected


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("gone"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        KeyError("dims"),
        TypeError("not a number"),
        IndexError("too far"),
        EOFError(),
        RecursionError("too deep"),
        struct.error("unpack requires 4 bytes"),
        pickle.UnpicklingError("persistent id"),
    ],
)
def test_whatever_reading_raises_is_told_by_file_and_cause(error: Exception) -> None:
    with pytest.raises(ModelUnavailable) as caught, checkpoint_errors("tiny.pt"):
        raise error
    assert caught.value.message.startswith("tiny.pt is cut, damaged or not a Whisper checkpoint: ")
    assert caught.value.message.endswith(summarize_error(error))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), KeyboardInterrupt(), ModelUnavailable("no tensor")]
)
def test_what_is_no_fault_of_the_file_stays_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, checkpoint_errors("tiny.pt"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (ValueError("bad magic"), "ValueError: bad magic"),
        (ValueError("\n  first\nsecond\n"), "ValueError: first"),
        (EOFError(), "EOFError"),
        (ValueError(" \n "), "ValueError"),
        (ValueError("x" * 500), "ValueError: " + "x" * 160),
    ],
)
def test_an_error_is_summarized_in_one_short_line(error: Exception, summary: str) -> None:
    assert summarize_error(error) == summary


def test_a_configuration_is_read_and_may_be_missing_only_where_it_is_optional(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": [[1, 2]]}))
    assert read_config(tmp_path, "config.json") == {"alignment_heads": [[1, 2]]}
    assert read_config(tmp_path, "generation_config.json", required=False) == {}
    with pytest.raises(ModelUnavailable, match=f"generation_config.json is missing from model folder {tmp_path.name}"):
        read_config(tmp_path, "generation_config.json")


STRANGE_JSON = [
    b'{"a": NaN}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a": 1, "a": 2}',
    b'{"a": "' + b" " * MAX_JSON_BYTES + b'"}',
]


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b'"text"', b'{"a": "\xff"}', *STRANGE_JSON])
@pytest.mark.parametrize("required", [True, False])
def test_a_configuration_that_is_no_object_is_refused_by_its_name(
    tmp_path: Path, content: bytes, required: bool
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"config\.json is cut, damaged"):
        read_config(tmp_path, "config.json", required)
