"""Three layouts of weights give the same network; a missing, cut or foreign file is refused by its name."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from handler.errors import ModelUnavailable
from handler.whisper.checkpoint.reader import load, open_checkpoint
from handler.whisper.tokenizer import Tokenizer
from tests.support.layouts import write_ctranslate2, write_openai, write_transformers

CPU = torch.device("cpu")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load(open_checkpoint(folder), CPU, torch.float32).state_dict()


@pytest.fixture(scope="module")
def expected(tiny_folder: Path) -> dict[str, torch.Tensor]:
    return weights_of(tiny_folder)


def assert_same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        scale = expected[name].abs().max().item() or 1.0
        assert (tensor - expected[name]).abs().max().item() <= tolerance * scale, name


@pytest.mark.parametrize("shards", [1, 3])
def test_transformers_safetensors_single_and_sharded(
    tiny_folder: Path, tmp_path: Path, expected: dict[str, torch.Tensor], shards: int
) -> None:
    folder = write_transformers(tiny_folder, tmp_path / "hf", shards)
    assert_same(weights_of(folder), expected)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.alignment_heads == open_checkpoint(tiny_folder).alignment_heads
    assert checkpoint.suppress == open_checkpoint(tiny_folder).suppress


def test_openai_pt_with_the_vocabulary_of_the_package(
    tiny_folder: Path, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    folder = write_openai(tiny_folder, tmp_path / "pt")
    assert_same(weights_of(folder), expected)
    text = " Naïve café — 東京, 123 <|endoftext|>"
    tokenizer, expected_tokenizer = (Tokenizer.from_folder(source, 51_864) for source in (folder, tiny_folder))
    assert tokenizer.encode(text) == expected_tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.bfloat16, 0.004), (torch.int8, 0.005)])
def test_ctranslate2_in_other_types(
    tiny_folder: Path, tmp_path: Path, expected: dict[str, torch.Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    assert_same(weights_of(write_ctranslate2(tiny_folder, tmp_path / "ct2", dtype)), expected, tolerance)


def test_dims_of_a_multilingual_checkpoint(base_folder: Path) -> None:
    dims = open_checkpoint(base_folder).dims
    assert (dims.n_vocab, dims.n_audio_layer, dims.n_text_layer, dims.n_audio_state, dims.n_audio_head) == (
        51_865,
        6,
        6,
        512,
        8,
    )


def load_folder(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    load(checkpoint, CPU, torch.float32)
    Tokenizer.from_folder(folder, checkpoint.dims.n_vocab)


def refusal_of(folder: Path) -> str:
    """The message of the error that refuses a folder."""
    with pytest.raises(ModelUnavailable) as error:
        load_folder(folder)
    return error.value.message


def test_a_folder_without_weights(tmp_path: Path) -> None:
    assert "has no weights" in refusal_of(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 100, 5_000_000])
def test_a_cut_model_bin(tiny_folder: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "model.bin").write_bytes((tiny_folder / "model.bin").read_bytes()[:size])
    assert "model.bin" in refusal_of(tmp_path)


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
@pytest.mark.parametrize(("write", "name"), [(write_transformers, "model.safetensors"), (write_openai, "tiny.pt")])
def test_a_cut_file_of_another_layout(
    tiny_folder: Path, tmp_path: Path, write: Callable[[Path, Path], Path], name: str, size: int
) -> None:
    folder = write(tiny_folder, tmp_path / "written")
    file = folder / name
    file.write_bytes(file.read_bytes()[:size])
    assert name in refusal_of(folder)


def test_a_missing_shard_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_transformers(tiny_folder, tmp_path / "hf", 2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal_of(folder)


def test_a_missing_tensor_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_transformers(tiny_folder, tmp_path / "hf", 2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "it has no tensor" in refusal_of(folder)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"dims": Evil(), "model_state_dict": {}}, tmp_path / "evil.pt", pickle_module=pickle)
    assert "evil.pt" in refusal_of(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_another_kind_of_model_is_refused_and_told_what_works(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_transformers(tiny_folder, tmp_path / "hf")
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}')
    assert "wav2vec2" in (message := refusal_of(folder))
    assert "Whisper" in message


def test_a_foreign_ctranslate2_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x06\0\0\0\x10\0TransformerSpec\0" + bytes(100))
    assert "TransformerSpec" in refusal_of(tmp_path)


def test_a_checkpoint_without_config_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_transformers(tiny_folder, tmp_path / "hf")
    (folder / "config.json").unlink()
    assert "config.json is missing" in refusal_of(folder)


def test_a_damaged_vocabulary_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("model.bin", "config.json"):
        shutil.copy(tiny_folder / name, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer.json" in refusal_of(tmp_path)
