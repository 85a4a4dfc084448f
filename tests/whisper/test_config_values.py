"""What the files of a checkpoint state: sizes, tokens, heads and names of files, each checked by itself."""

from typing import Any

import pytest

from handler.errors import ModelUnavailable
from handler.whisper.checkpoint.config_values import describe, file_names, head_pairs, network_dims, token_ids
from handler.whisper.dims import Dims
from tests.whisper.test_model import SMALL

SIZES: dict[str, Any] = {name: getattr(SMALL, name) for name in Dims.__slots__}


@pytest.mark.parametrize("value", [0, -3, 10**9, 2**70, 1.0, "80", True, None, [80], {"a": 80}, 1e400])
@pytest.mark.parametrize("field", Dims.__slots__)
def test_a_size_that_no_network_has_is_refused_by_file_and_field(field: str, value: object) -> None:
    with pytest.raises(ModelUnavailable, match=rf"^model_unavailable: tiny\.pt: {field} must be a whole number from"):
        network_dims("tiny.pt", SIZES | {field: value})


def test_a_size_that_is_missing_is_refused_by_the_name_that_the_file_gives_it() -> None:
    names = {name: f"a_{name}" for name in Dims.__slots__}
    sizes = {names[name]: value for name, value in SIZES.items()}
    assert network_dims("config.json", sizes, names) == SMALL
    del sizes["a_n_mels"]
    with pytest.raises(
        ModelUnavailable, match=r"config\.json: a_n_mels must be a whole number from 1 to 256; it is None"
    ):
        network_dims("config.json", sizes, names)


@pytest.mark.parametrize("side", ["audio", "text"])
def test_heads_must_share_the_channels_evenly(side: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"n_{side}_head must divide n_{side}_state, which is 64; it is 3"):
        network_dims("tiny.pt", SIZES | {f"n_{side}_head": 3})


def test_tokens_outside_of_the_vocabulary_are_left_out_because_no_such_token_is_decoded() -> None:
    assert token_ids("config.json", "suppress_ids", [1, -1, 99, 100, 2**40], 100) == (1, 99)
    assert token_ids("config.json", "suppress_ids", None, 100) == ()


@pytest.mark.parametrize("value", ["1", {"a": 1}, [1, "2"], [1.0], [None], [[1]], 7, True])
def test_tokens_that_are_no_list_of_whole_numbers_are_refused(value: object) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.json: suppress_ids must be a list"):
        token_ids("config.json", "suppress_ids", value, 100)


def test_alignment_heads_are_pairs() -> None:
    assert head_pairs("config.json", "alignment_heads", [[1, 1], [2, 0], [1, 1]], SMALL) == ((1, 1), (2, 0))
    assert head_pairs("config.json", "alignment_heads", None, SMALL) == ()


@pytest.mark.parametrize("pair", [[3, 0], [0, 2], [-1, 0], [0, -1], [2**70, 0]])
def test_a_list_with_alignment_heads_of_another_network_is_not_used(pair: list[int]) -> None:
    assert head_pairs("generation_config.json", "alignment_heads", [[1, 1], pair], SMALL) == ()


@pytest.mark.parametrize("value", ["all", {}, [3], [[1]], [[1, 2, 3]], [["a", "b"]], [[None, 1]], [[1.0, 2]], [None]])
def test_alignment_heads_that_are_no_pairs_of_numbers_are_refused(value: object) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.json: alignment_heads must be a list"):
        head_pairs("config.json", "alignment_heads", value, SMALL)


def test_the_files_of_an_index_are_named_once() -> None:
    weight_map = {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}
    assert file_names("index.json", "weight_map", weight_map, ".safetensors") == ["1.safetensors", "2.safetensors"]


@pytest.mark.parametrize(
    "name", ["../a.safetensors", "/etc/a.safetensors", "b/a.safetensors", "..", "", "a.bin", 5, None, ["a.safetensors"]]
)
def test_a_file_outside_of_the_folder_is_not_opened(name: object) -> None:
    with pytest.raises(ModelUnavailable, match=r"index\.json: weight_map must name \.safetensors files"):
        file_names("index.json", "weight_map", {"a": name}, ".safetensors")


@pytest.mark.parametrize("value", [None, {}, [], "a.safetensors"])
def test_an_index_without_files_is_refused(value: object) -> None:
    with pytest.raises(ModelUnavailable, match=r"index\.json: weight_map must map tensors to files"):
        file_names("index.json", "weight_map", value, ".safetensors")


def test_a_value_in_a_message_is_short() -> None:
    values = ("a" * 1000, 10**5000, [0] * 1000, {"a": 1}, None, 1.5, True)
    assert all(len(describe(value)) < 70 for value in values)
