"""Words of tokens: nothing is lost, characters stay whole, and shared or broken tokens have their places."""

import random
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest

from handler.tokens.word_splitting import WordTokens, split_words
from handler.whisper.tokenizer import Tokenizer
from tests.support.speech import SENTENCES


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return the multilingual vocabulary of the package openai-whisper."""
    return Tokenizer.from_folder(tmp_path_factory.mktemp("empty"), 51_865)


def texts(words: list[WordTokens]) -> list[str]:
    return [word.text for word in words]


def assert_complete(words: list[WordTokens], tokens: list[int], tokenizer: Tokenizer) -> None:
    """Check that words cover tokens from the first to the last, without gaps and in order."""
    assert "".join(texts(words)) == tokenizer.decode(tokens)
    assert words[0].start == 0
    assert words[-1].end == len(tokens)
    assert all(first.end == pytest.approx(second.start) for first, second in pairwise(words))
    assert all(word.start < word.end for word in words)


@pytest.mark.parametrize("text", SENTENCES)
def test_words_of_english_speech_are_those_between_spaces(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(" " + text)
    words = split_words(tokenizer.pieces(tokens))
    assert texts(words) == [" " + word for word in text.split()]
    for word in words:  # the tokens of a word are its own
        assert tokenizer.decode(tokens[int(word.start) : int(word.end)]) == word.text


@pytest.mark.parametrize(
    "text",
    [
        "ที่นี่มีน้ำเย็นอยู่",
        "ກຳລັງໄປຕະຫຼາດ",
        "မြန်မာနိုင်ငံ",
        "ភាសាខ្មែរ",
        "時々𠮷野家で佐々木さん",
        "か\u3099き\u3099",  # with combining marks of voice
        "ｱｲｳｴｵ",
    ],
)
def test_in_scripts_without_spaces_a_character_and_its_marks_are_a_word(tokenizer: Tokenizer, text: str) -> None:
    expected: list[str] = []
    for character in text:
        if unicodedata.category(character).startswith("M"):
            expected[-1] += character
        else:
            expected.append(character)
    tokens = tokenizer.encode(text)
    words = split_words(tokenizer.pieces(tokens))
    assert texts(words) == expected
    assert_complete(words, tokens, tokenizer)


def test_characters_that_share_a_token_divide_it_evenly(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("です")
    assert len(tokens) == 1
    assert split_words(tokenizer.pieces(tokens)) == [WordTokens("で", 0, 0.5), WordTokens("す", 0.5, 1)]


def test_a_character_of_several_tokens_is_one_word_over_all_of_them(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("𠮷")
    assert len(tokens) > 1
    assert split_words(tokenizer.pieces(tokens)) == [WordTokens("𠮷", 0, len(tokens))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" 안녕하세요 여러분", [" 안녕하세요", " 여러분"]),
        (" «Bonjour» dit-il", [" «Bonjour»", " dit-il"]),
        (" It’s 10:30 — now", [" It’s", " 10:30 —", " now"]),
        (" 3.5%, $20 and C++", [" 3.5%,", " $20", " and", " C++"]),
        ("... well", ["... well"]),
        (" Go to東京（日本） now", [" Go", " to", "東", "京", "（日", "本）", " now"]),
        (" -", [" -"]),
        (" مرحبا، كيف حالك؟", [" مرحبا،", " كيف", " حالك؟"]),
        (" שלום עולם!", [" שלום", " עולם!"]),
        (" cafe\u0301 ole\u0301", [" cafe\u0301", " ole\u0301"]),
    ],
)
def test_marks_and_signs_stay_with_the_word_that_they_are_written_at(
    tokenizer: Tokenizer, text: str, words: list[str]
) -> None:
    tokens = tokenizer.encode(text)
    split = split_words(tokenizer.pieces(tokens))
    assert texts(split) == words
    assert_complete(split, tokens, tokenizer)


def test_no_tokens_are_no_words(tokenizer: Tokenizer) -> None:
    assert split_words([]) == []


@pytest.mark.parametrize("seed", range(10))
def test_a_text_cut_after_a_character_or_its_first_token_loses_none_of_what_is_left(
    tokenizer: Tokenizer, seed: int
) -> None:
    chance = random.Random(seed)
    pieces = [" word", " 10:30,", "東京", "です", "ที่นี่", " 😀", "𠮷", " नमस्ते", "（x）", " — ", " é"]
    tokens = tokenizer.encode("".join(chance.choice(pieces) for _ in range(12)))
    was_whole = True
    for count in range(1, len(tokens) + 1):
        is_whole = not tokenizer.decode(tokens[:count]).endswith("\ufffd")
        if is_whole or was_whole:
            assert_complete(split_words(tokenizer.pieces(tokens[:count])), tokens[:count], tokenizer)
        was_whole = is_whole


def test_a_character_that_breaks_off_is_no_reason_to_join_the_words_after_it(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode(" one"), tokenizer.encode(" 😀")[0], *tokenizer.encode(" two three")]
    words = split_words(tokenizer.pieces(tokens))
    assert texts(words)[-2:] == [" two", " three"]
    assert_complete(words, tokens, tokenizer)


def test_the_english_vocabulary_splits_the_same_from_a_folder_and_from_the_package(
    tiny_folder: Path, tmp_path: Path
) -> None:
    of_folder, of_package = (Tokenizer.from_folder(folder, 51_864) for folder in (tiny_folder, tmp_path))
    for text in (" 10:30 — “hello”, 😀 café!", "東京です", " " + SENTENCES[0]):
        tokens = of_folder.encode(text)
        assert split_words(of_folder.pieces(tokens)) == split_words(of_package.pieces(tokens))


def test_words_after_a_character_without_its_last_tokens_stay_apart(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.encode("𠮷")
    assert len(pieces) > 2
    tokens = [*tokenizer.encode(" one"), *pieces[:2], *tokenizer.encode(" two three 東京")]
    words = split_words(tokenizer.pieces(tokens))
    assert texts(words)[-4:] == [" two", " three", " 東", "京"]
    assert_complete(words, tokens, tokenizer)


@pytest.mark.parametrize("seed", range(10))
def test_random_tokens_lose_nothing(tokenizer: Tokenizer, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):  # half of the tokens are single bytes
        tokens = [rng.randrange(rng.choice((256, tokenizer.specials.eot))) for _ in range(rng.randint(1, 20))]
        words = split_words(tokenizer.pieces(tokens))
        assert "".join(texts(words)) == tokenizer.decode(tokens)
        assert (words[0].start, words[-1].end) == (0, len(tokens))
        assert all(first.end == pytest.approx(second.start) for first, second in pairwise(words))
