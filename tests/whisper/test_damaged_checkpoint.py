"""Checkpoints that are damaged or that lie: each is refused by the name of its file, without much memory, or loads."""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch

from handler import logs
from handler.errors import ModelUnavailable
from handler.schema.window import Window
from handler.whisper.checkpoint import openai
from handler.whisper.checkpoint.conversion_cache import ConversionCache
from handler.whisper.checkpoint.ctranslate2 import ModelFile, variables_in
from handler.whisper.checkpoint.layout import checkpoint_errors
from handler.whisper.checkpoint.reader import load, open_checkpoint
from handler.whisper.checkpoint.safetensors_file import SafetensorsFile
from handler.whisper.dims import Dims
from handler.whisper.loading import load_engine
from handler.whisper.model import Whisper
from tests.conftest import settings
from tests.support.damage import damaged, gaps
from tests.support.layouts import write_model_bin, write_openai, write_random, write_transformers
from tests.support.memory import memory_limit

CPU = torch.device("cpu")
NUM_DAMAGES = 150
MEMORY = 1024**3  # bytes that a load may add, several hundred times the size of these checkpoints
SMALL = Dims(80, 50, 8, 2, 1, 100, 32, 8, 2, 2)
TINY_VOCABULARY = Dims(80, 50, 8, 2, 1, 51_864, 32, 8, 2, 2)


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("random") / "ct2", SMALL)


@pytest.fixture(scope="module")
def vocabulary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("vocabulary") / "ct2", TINY_VOCABULARY)


def rest_of_safetensors(path: Path) -> list[range]:
    with path.open("rb") as file:
        return [range(8 + int.from_bytes(file.read(8), "little"))]


def rest_of_model_bin(path: Path) -> list[range]:
    with path.open("rb") as file:
        spans = [(variable.offset, variable.offset + variable.size) for _, variable in variables_in(file)]
    return gaps(spans, path.stat().st_size)


def rest_of_pt(path: Path) -> list[range]:
    """Return where the pickle and the list of files are."""
    with ZipFile(path) as archive:
        pickle_start = path.read_bytes().index(b"\x80\x02")
        pickle_size = archive.getinfo("tiny/data.pkl").file_size
        return [range(pickle_start, pickle_start + pickle_size), range(archive.start_dir, path.stat().st_size)]


def copy_ctranslate2(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


LAYOUTS = [
    (write_transformers, "model.safetensors", rest_of_safetensors),
    (write_openai, "tiny.pt", rest_of_pt),
    (copy_ctranslate2, "model.bin", rest_of_model_bin),
]


@pytest.mark.parametrize(("write", "name", "places_of"), LAYOUTS)
def test_a_damaged_weight_file_is_refused_by_its_name_or_loads(
    random_folder: Path,
    tmp_path: Path,
    write: Callable[[Path, Path], Path],
    name: str,
    places_of: Callable[[Path], list[range]],
) -> None:
    folder = write(random_folder, tmp_path / "written")
    file = folder / name
    content, places = file.read_bytes(), places_of(file)
    messages = set()
    with memory_limit(MEMORY):
        for seed in range(NUM_DAMAGES):
            file.write_bytes(damaged(content, places, seed))
            messages.add(message := refusal_of(lambda: load(open_checkpoint(folder), CPU, torch.float32)))
            assert not message or (name in message and len(message) < 500)
    assert len(messages) > NUM_DAMAGES // 10


def refusal_of(action: Callable[[], object]) -> str:
    """Return the message of the error that an action ends with, or "" if it ends without."""
    try:
        action()
    except ModelUnavailable as exc:
        return exc.message
    return ""


STRANGE_VALUES = [None, True, 0, -1, 7, 10**12, 1.5, "8", [], [[9, 9]], [10**12, -5], ["a"], {"a": 1}]


CONFIG_FIELDS = (
    "model_type num_mel_bins d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads "
    "vocab_size max_source_positions max_target_positions"
)


@pytest.mark.parametrize(
    ("write", "name", "fields"),
    [
        (write_transformers, "config.json", CONFIG_FIELDS),
        (write_transformers, "generation_config.json", "suppress_tokens alignment_heads"),
        (copy_ctranslate2, "config.json", "suppress_ids alignment_heads"),
    ],
)
def test_a_strange_value_in_a_configuration_is_refused_by_file_and_field_or_does_no_harm(
    vocabulary_folder: Path, tmp_path: Path, write: Callable[[Path, Path], Path], name: str, fields: str
) -> None:
    folder = write(vocabulary_folder, tmp_path / "written")
    content = json.loads((folder / name).read_text())
    for field in fields.split():
        with memory_limit(MEMORY):
            for value in STRANGE_VALUES:
                (folder / name).write_text(json.dumps(content | {field: value}))
                message = refusal_of(lambda: decode_a_second(folder))
                assert not message or (name in message and (field in message or "names a model of type" in message))
        assert message, "an object is no value of any field"
        (folder / name).write_text(json.dumps(content))


def test_tokens_of_the_older_configuration_are_refused_by_its_name(vocabulary_folder: Path, tmp_path: Path) -> None:
    folder = write_transformers(vocabulary_folder, tmp_path / "written")
    (folder / "generation_config.json").unlink()
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"suppress_tokens": "-1"}))
    with pytest.raises(ModelUnavailable, match=r"config\.json: suppress_tokens must be a list"):
        open_checkpoint(folder)


def decode_a_second(folder: Path) -> None:
    """Load a checkpoint, and decode a window with it."""
    engine = load_engine(folder, settings(batch_size=1, chunk_length_s=1, max_new_tokens=4))
    window = Window(0, np.zeros(16_000, np.float32)).with_params(language="en")
    engine.admit([window])
    while not engine.advance():
        pass


def test_the_alignment_heads_of_a_larger_model_are_replaced_by_those_of_the_last_layers(
    vocabulary_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("WARNING")
    folder = write_transformers(vocabulary_folder, tmp_path / "written")
    (folder / "generation_config.json").write_text('{"alignment_heads": [[7, 0], [10, 17]]}')
    decode_a_second(folder)
    assert "alignment_heads_ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "tensor"),
    [
        ("num_mel_bins", 128, "model.encoder.conv1.weight"),
        ("vocab_size", 51_865, "model.decoder.embed_tokens.weight"),
        ("max_source_positions", 1500, "model.encoder.embed_positions.weight"),
        ("max_target_positions", 448, "model.decoder.embed_positions.weight"),
        ("d_model", 384, "model.encoder.embed_positions.weight"),
        ("encoder_layers", 20_000, None),
        ("encoder_layers", 3, "has the tensors of 1 layers"),
        ("decoder_layers", 1, "has the tensors of 2 layers"),
        ("decoder_attention_heads", 3, "must divide d_model, which is 8"),
    ],
)
def test_a_size_that_the_tensors_contradict_is_refused_by_its_name_before_anything_is_built(
    random_folder: Path, tmp_path: Path, field: str, value: int, tensor: str | None
) -> None:
    folder = write_transformers(random_folder, tmp_path / "written")
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable, match=rf"config\.json: {field}") as caught:
        open_checkpoint(folder)
    assert tensor is None or tensor in caught.value.message


HEADERS: list[dict[str, Any]] = [
    {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}},  # more than it has
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**40]}},  # beyond the end
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
    {"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [1] * 100_000 + [2], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}},
    {"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}},
    {"a": {"dtype": "F32", "shape": [2]}},
    {"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}},
    {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}},
    {"a": [1, 2]},
    {"a": None},
    {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    },
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, json.dumps(header).encode())
    with pytest.raises(ModelUnavailable, match=r"a\.safetensors is cut, damaged"), checkpoint_errors(file.name):
        SafetensorsFile(file).tensor("a")


@pytest.mark.parametrize("header", [b'{"a": {}, "a": {}}', b"[" * 100_000, b"[]", b"\xff", b'{"a": NaN}'])
def test_a_safetensors_header_that_is_no_plain_json_object_is_refused(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, header)
    with pytest.raises(ModelUnavailable, match=r"a\.safetensors is cut, damaged"), checkpoint_errors(file.name):
        SafetensorsFile(file)


def write_safetensors(file: Path, header: bytes) -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))


@pytest.mark.parametrize("count", [20_001, 2**32 - 1])
def test_a_model_bin_with_too_many_variables_is_refused_at_once(tmp_path: Path, count: int) -> None:
    variable = b"\x02\0a\0" + struct.pack("<BIBI", 1, 0, 0, 0)
    start = struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<II", 3, count)
    (tmp_path / "model.bin").write_bytes(start + variable * 100)
    with pytest.raises(ModelUnavailable, match=rf"model\.bin is cut.*{count}"):
        open_checkpoint(tmp_path)


def test_a_scale_that_would_blow_up_a_variable_is_refused(tmp_path: Path) -> None:
    variables = {"a": torch.ones(1, 10**6, dtype=torch.int8), "a_scale": torch.ones(10**6)}
    write_model_bin(variables, tmp_path / "model.bin")
    with memory_limit(MEMORY), pytest.raises(ValueError, match="a_scale has 1000000 numbers"):
        ModelFile(tmp_path / "model.bin").read("a")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "..", 5])
def test_a_shard_outside_of_the_folder_is_not_opened(random_folder: Path, tmp_path: Path, name: object) -> None:
    folder = write_transformers(random_folder, tmp_path / "written", 2)
    (tmp_path / "model.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors\.index\.json: weight_map must name"):
        open_checkpoint(folder)


def test_a_pt_whose_network_is_larger_than_the_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Views that repeat a single number have any shape, and take no memory until they are copied."""
    dims = Dims(80, 1500, 1280, 20, 1, 51_866, 448, 1280, 20, 1)
    with torch.device("meta"):
        network = Whisper(dims)
    number = torch.zeros(1)
    tensors = {}
    for name, tensor in network.state_dict().items():
        for stored in stored_names(name):
            tensors[stored] = number.expand(tensor.shape)
    torch.save({"dims": asdict(dims), "model_state_dict": tensors}, tmp_path / "tiny.pt")
    with memory_limit(MEMORY), pytest.raises(ModelUnavailable, match=r"tiny\.pt has \d+ bytes, too few for"):
        load(open_checkpoint(tmp_path), CPU, torch.float32)


def stored_names(name: str) -> list[str]:
    """Return openai-whisper's names of a parameter of the network."""
    if name in openai.NAMES.tensors:
        return [openai.NAMES.tensors[name]]
    module, _, kind = name.rpartition(".")
    return [openai.NAMES.parameter(part, kind) for part in openai.NAMES.modules_of(module)]


class Allocation:
    """Asks for memory when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (2**33,)


@pytest.mark.parametrize(
    "content",
    [
        {"dims": asdict(SMALL), "model_state_dict": {"a": Allocation()}},
        {"dims": asdict(SMALL), "model_state_dict": {"a": 1}},
        {"dims": asdict(SMALL), "model_state_dict": {5: torch.zeros(1)}},
        {"dims": asdict(SMALL), "model_state_dict": [1]},
        {"dims": [1], "model_state_dict": {}},
        {"dims": {}, "model_state_dict": {}},
        {"dims": asdict(SMALL) | {"n_mels": "80"}, "model_state_dict": {}},
        [1],
    ],
)
def test_a_pt_with_other_things_than_sizes_and_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "tiny.pt", pickle_protocol=2)
    with memory_limit(MEMORY), pytest.raises(ModelUnavailable, match=r"tiny\.pt"):
        open_checkpoint(tmp_path)


def test_a_pt_that_unpacks_to_more_than_it_has_is_refused(random_folder: Path, tmp_path: Path) -> None:
    folder = write_openai(random_folder, tmp_path / "written")
    with ZipFile(folder / "tiny.pt") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with ZipFile(folder / "tiny.pt", "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content + b"." * (10**7 if name.endswith("data.pkl") else 0))
    with pytest.raises(ModelUnavailable, match=r"tiny\.pt is cut.*expected uncompressed parts"):
        open_checkpoint(folder)


def test_a_tensor_of_another_kind_is_refused(random_folder: Path, tmp_path: Path) -> None:
    folder = write_openai(random_folder, tmp_path / "written")
    content = torch.load(folder / "tiny.pt")
    content["model_state_dict"]["encoder.conv1.bias"] = torch.zeros(8, dtype=torch.complex64)
    torch.save(content, folder / "tiny.pt")
    with pytest.raises(ModelUnavailable, match=r"tiny\.pt"):
        load(open_checkpoint(folder), CPU, torch.float32)


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "tiny.pt"])
def test_a_pipe_in_the_place_of_weights_is_not_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelUnavailable, match="has no weights"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_pipe_in_the_place_of_a_configuration_is_not_opened(random_folder: Path, tmp_path: Path, name: str) -> None:
    folder = write_transformers(random_folder, tmp_path / "written")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelUnavailable, match=name):
        open_checkpoint(folder)


def test_a_conversion_whose_content_lies_is_not_used_though_its_checksums_match(
    random_folder: Path, tmp_path: Path
) -> None:
    source = random_folder / "model.bin"
    conversions = ConversionCache([tmp_path], source)
    expected = load(open_checkpoint(random_folder), CPU, torch.float32, conversions).state_dict()
    conversions.write()
    file = conversions.path("float32")
    content, places = file.read_bytes(), rest_of_safetensors(file)
    for seed in range(20):
        file.write_bytes(damaged(content, places, seed))
        checksums = {"size": file.stat().st_size, "sha256": [hashlib.sha256(file.read_bytes()).hexdigest()]}
        (file.parent / "sums.json").write_text(json.dumps(checksums))
        conversions = ConversionCache([tmp_path], source)
        conversions.verify("float32")
        assert conversions.has_any()
        weights = load(open_checkpoint(random_folder), CPU, torch.float32, conversions).state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("checksums", ["", "[]", "{}", "null", "[" * 100_000, '{"size": NaN}', '{"size": "1"}'])
def test_a_conversion_with_damaged_checksums_is_removed(random_folder: Path, tmp_path: Path, checksums: str) -> None:
    conversions = ConversionCache([tmp_path], random_folder / "model.bin")
    file = conversions.path("float32")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    (file.parent / "sums.json").write_text(checksums)
    conversions.verify()
    assert not conversions.has_any()
    assert not file.exists()
