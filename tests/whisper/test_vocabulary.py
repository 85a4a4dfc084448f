"""Vocabularies that are damaged or belong to another model: refused by the name of their file, or used without harm."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler.errors import ModelUnavailable
from handler.tokens.byte_level import visible_bytes
from handler.whisper.tokenizer import Tokenizer

VOCABULARY = {byte: token for token, byte in enumerate(visible_bytes())} | {"Ġt": 256, "he": 257, "Ġthe": 258}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
CONTENT: dict[str, Any] = {
    "model": {"type": "BPE", "vocab": VOCABULARY, "merges": ["Ġ t", "h e", "Ġt he"]},
    "pre_tokenizer": BYTE_LEVEL,
    "decoder": BYTE_LEVEL,
    "added_tokens": [],
}
TEXT = " the quick brown 東 123 <|endoftext|>"


def tokenizer_of(folder: Path, content: object = CONTENT) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return Tokenizer.from_folder(folder, 51_864)


def test_a_small_vocabulary_works(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    assert tokenizer.encode(" the") == [258]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def with_value(content: Any, path: tuple[str, ...], value: object) -> Any:
    return {**content, path[0]: with_value(content.get(path[0]), path[1:], value)} if path else value


def paths_in(content: object) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value inside of a JSON object, except single tokens."""
    yield ()
    if isinstance(content, dict) and content is not VOCABULARY:
        for name, value in content.items():
            yield from ((name, *path) for path in paths_in(value))


STRANGE_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    1.5,
    "",
    "a",
    "(((",
    [],
    [[]],
    ["a b"],
    {},
    {"a": 1},
    {"a": 51_000},
)


def test_a_strange_value_in_a_vocabulary_is_refused_by_the_name_of_the_file_or_does_no_harm(tmp_path: Path) -> None:
    num_refused = 0
    for path in [*paths_in(CONTENT), ("model", "continuing_subword_prefix"), ("normalizer",), ("post_processor",)]:
        for value in STRANGE_VALUES:
            try:
                tokenizer = tokenizer_of(tmp_path, with_value(CONTENT, path, value))
            except ModelUnavailable as exc:
                num_refused += "tokenizer.json is not a vocabulary of Whisper" in exc.message
                continue
            assert all(token < tokenizer.specials.eot for token in tokenizer.encode(TEXT))
            assert b"".join(map(tokenizer.token_bytes, range(300)))
            assert all(token < tokenizer.specials.eot for token in tokenizer.non_speech)
    assert num_refused > 100


def test_tokens_beyond_those_of_text_never_come_into_a_prompt(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": VOCABULARY | {"qq": 60_000}, "merges": ["q q"]}
    tokenizer = tokenizer_of(tmp_path, CONTENT | {"model": model})
    prompt = tokenizer.prompt("en", "transcribe", "a qq b", max_context=100)
    assert tokenizer.decode(prompt) == " a  b"
    assert max(prompt) < 51_864


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 100_000, '{"model":' * 100_000, "[1]", "null", " " * (16 * 1024**2 + 1)]
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json is not a vocabulary of Whisper") as error:
        Tokenizer.from_folder(tmp_path, 51_864)
    assert len(error.value.message) < 300


def test_merges_are_a_file(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(VOCABULARY))
    os.mkfifo(tmp_path / "merges.txt")
    with pytest.raises(ModelUnavailable, match=r"vocab\.json is not a vocabulary of Whisper.*merges\.txt is missing"):
        Tokenizer.from_folder(tmp_path, 51_864)


@pytest.mark.parametrize(
    "line",
    ["IQ==", "IQ== a", "IQ== -1", "IQ== 99999999999999999999", base64.b64encode(bytes(10**6)).decode() + " 9"],
)
def test_a_line_of_a_tiktoken_file_that_is_no_token_is_refused(tmp_path: Path, line: str) -> None:
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    (tmp_path / "gpt2.tiktoken").write_text("\n".join([*lines, line]))
    with pytest.raises(ModelUnavailable, match=r"gpt2\.tiktoken is not a vocabulary of Whisper"):
        Tokenizer.from_folder(tmp_path, 51_864)
