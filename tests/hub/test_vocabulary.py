"""The text of tokens equals what the tokenizers of transformers make of them, in all three ways to write a space."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from handler.hub.vocabulary import Vocabulary
from handler.tokens.byte_level import visible_bytes
from tests.support.hub_models import letters_tokenizer, pieces_tokenizer


def text_of(vocabulary: Vocabulary, tokens: list[int]) -> str:
    return b"".join(vocabulary.pieces(tokens)).decode().strip()


def test_letters_with_a_token_between_words(tmp_path: Path) -> None:
    tokenizer = letters_tokenizer(tmp_path)
    vocabulary = Vocabulary(tokenizer)
    tokens = tokenizer("it's here").input_ids
    assert text_of(vocabulary, tokens) == tokenizer.decode(tokens, group_tokens=False) == "it's here"


def test_letters_that_a_tokenizer_writes_in_lower_case(tmp_path: Path) -> None:
    import json

    from transformers import Wav2Vec2CTCTokenizer

    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), do_lower_case=True)
    assert text_of(Vocabulary(tokenizer), [3, 2, 4]) == tokenizer.decode([3, 2, 4], group_tokens=False) == "a b"


def test_pieces_that_begin_with_a_space() -> None:
    tokenizer = pieces_tokenizer()
    vocabulary = Vocabulary(tokenizer)
    tokens = tokenizer.convert_tokens_to_ids(["\u2581a", "b", "\u2581c", "<pad>", "."])
    assert text_of(vocabulary, tokens) == "ab c."
    assert vocabulary.token_bytes(tokens[0]) == b" a"


def test_bytes_that_have_visible_characters() -> None:
    names = [*visible_bytes(), "<pad>"]
    backend = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    tokens = tokenizer("déjà vu 漢").input_ids
    assert text_of(Vocabulary(tokenizer), tokens) == tokenizer.decode(tokens) == "déjà vu 漢"


def test_a_character_without_a_token_is_written_by_its_bytes() -> None:
    names = ["<unk>", "\u2581", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, [], byte_fallback=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokens = tokenizer.convert_tokens_to_ids(["a", *(f"<0x{byte:02X}>" for byte in "é".encode())])
    assert text_of(Vocabulary(tokenizer), tokens) == "aé"


def test_a_token_that_is_not_in_the_vocabulary_has_no_text() -> None:
    assert Vocabulary(pieces_tokenizer()).token_bytes(10**6) == b""


@pytest.mark.parametrize(("names", "expected"), [(["<en-US>"], "en"), (["a", "<de-DE>"], "de"), (["a"], None)])
def test_a_tag_tells_the_language_and_is_no_text(names: list[str], expected: str | None) -> None:
    vocabulary_names = ["<unk>", "\u2581a", "a", "<en-US>", "<de-DE>"]
    backend = Tokenizer(models.BPE({name: index for index, name in enumerate(vocabulary_names)}, [], unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    vocabulary, tokens = Vocabulary(tokenizer), tokenizer.convert_tokens_to_ids(names)
    assert vocabulary.told_language(tokens) == expected
    assert "<" not in text_of(vocabulary, tokens)
