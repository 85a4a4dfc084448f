"""Whisper's tokens: special ids, prompts, text. Knows no tensor and no audio.

Source: openai/whisper, whisper/tokenizer.py.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from handler.errors import ModelUnavailable
from handler.languages import LANGUAGES

TIMESTAMPS = 1501  # 0.00, 0.02 … 30.00 s
_MULTILINGUAL_VOCAB = 51_865  # the least vocabulary with a token for each of 99 languages and text tokens of every script
_NOT_SPEECH = tuple('"#()*+/:;<=>@[\\]^_`{|}~「」『』')
_NOT_SPEECH_RUNS = (
    "<<",
    ">>",
    "<<<",
    ">>>",
    "--",
    "---",
    "-(",
    "-[",
    "('",
    '("',
    "((",
    "))",
    "(((",
    ")))",
    "[[",
    "]]",
    "{{",
    "}}",
    "♪♪",
    "♪♪♪",
)
_MUSIC = "♩♪♫♬♭♮♯"


@dataclass(frozen=True, slots=True)
class Specials:
    """Ids of the special tokens. They follow from the size of the vocabulary alone: text, end, start, languages, tasks, timestamps."""

    eot: int  # end of text; every id below is text
    sot: int
    languages: tuple[str, ...]  # codes, in the order of their ids, which begin after sot
    translate: int
    transcribe: int
    start_of_lm: int
    start_of_prev: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    vocab: int
    multilingual: bool

    @classmethod
    def of_vocab(cls, n_vocab: int) -> "Specials":
        """The layout of a vocabulary of `n_vocab` ids. Raises ModelUnavailable where it is not one of Whisper's."""
        multilingual = n_vocab >= _MULTILINGUAL_VOCAB
        count = n_vocab - _MULTILINGUAL_VOCAB + 99 if multilingual else 99
        eot = 50_257 if multilingual else 50_256
        task = eot + 2 + count
        if count > len(LANGUAGES) or task + 6 + TIMESTAMPS != n_vocab:
            raise ModelUnavailable(f"expected a Whisper vocabulary of 51864 to 51866 ids; the checkpoint has {n_vocab}")
        codes = tuple(LANGUAGES)[:count]
        return cls(
            eot=eot, sot=eot + 1, languages=codes, translate=task, transcribe=task + 1, start_of_lm=task + 2, start_of_prev=task + 3,
            no_speech=task + 4, no_timestamps=task + 5, timestamp_begin=task + 6, vocab=n_vocab, multilingual=multilingual,
        )  # fmt: skip

    def language_id(self, code: str) -> int:
        """The token of a language. Raises ValueError where the vocabulary has none for it."""
        return self.sot + 1 + self.languages.index(code)


class Tokenizer:
    """Text to ids and back, for the text part of the vocabulary."""

    def __init__(self, backend: FastTokenizer, specials: Specials) -> None:
        backend.encode_special_tokens = True  # in plain text they are text
        self._backend = backend
        self.specials = specials

    @classmethod
    def from_folder(cls, folder: Path, n_vocab: int) -> "Tokenizer":
        """The tokenizer beside a checkpoint: tokenizer.json, vocab.json with merges.txt, or *.tiktoken.

        Where there is none of them, the vocabulary inside an installed `openai-whisper` is taken. Raises ModelUnavailable.
        """
        specials = Specials.of_vocab(n_vocab)
        name = "multilingual.tiktoken" if specials.multilingual else "gpt2.tiktoken"
        ours = (folder / "tokenizer.json", folder / "vocab.json", folder / name, _package_folder("whisper") / "assets" / name)
        found = next((path for path in ours if path.is_file()), None)
        if found is None:
            raise ModelUnavailable(
                f"no vocabulary in {folder.name}: expected tokenizer.json, vocab.json with merges.txt, or {name} "
                "(the package openai-whisper carries the last one)"
            )
        try:
            tokenizer = cls(_read(found), specials)
            fits = tokenizer.encode("a") and max(tokenizer.encode(" the quick brown fox")) < specials.eot
        except Exception as exc:  # `tokenizers` raises bare Exception for whatever it cannot read
            raise ModelUnavailable(f"{found.name} is not a vocabulary of Whisper: {exc}") from exc
        if not fits:
            raise ModelUnavailable(f"{found.name} is not a vocabulary of Whisper: its text ids do not end at {specials.eot}")
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; what looks like a special token in it stays text."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special ones and timestamps are left out."""
        return self._backend.decode([i for i in ids if i < self.specials.eot], skip_special_tokens=False)

    def spelled(self, token: int) -> bytes:
        """The bytes that a token of text stands for; alone they may be no whole character."""
        return bytes(map(self._bytes.__getitem__, self._backend.id_to_token(token) or ""))

    @cached_property
    def _bytes(self) -> dict[str, int]:
        return {character: byte for byte, character in enumerate(visible_bytes())}

    def prompt(self, language: str | None, task: str, previous: str = "", hotwords: str = "", *, room: int) -> list[int]:
        """The ids before the first decoded one. Of hotwords and previous text, `room` ids at most go in front.

        Hotwords lose their end and take half the room at most where there is text; the text loses its beginning. An
        English-only vocabulary has no language and no task to name.
        """
        ids = self.specials
        text = self.encode(" " + previous.strip()) if previous.strip() else []
        terms = self.encode(" " + hotwords.strip())[: room // 2 if text else room] if hotwords.strip() else []
        before = terms + (text[-(room - len(terms)) :] if room > len(terms) else [])
        head = [ids.start_of_prev, *before, ids.sot] if before else [ids.sot]
        if not ids.multilingual:
            return head
        return [*head, ids.language_id(language or "en"), ids.translate if task == "translate" else ids.transcribe]

    @cached_property
    def non_speech(self) -> tuple[int, ...]:
        """Ids of text that is no speech: brackets, notes, speaker dashes. Source: openai/whisper, non_speech_tokens."""
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in (*_NOT_SPEECH, *_NOT_SPEECH_RUNS, *_MUSIC):
            for ids in (self.encode(symbol), self.encode(" " + symbol)):
                if len(ids) == 1 or symbol in _MUSIC:
                    found.add(ids[0])
        return tuple(sorted(found))


def _package_folder(package: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else Path("/nonexistent")


def _read(path: Path) -> FastTokenizer:
    if path.name == "tokenizer.json":
        return FastTokenizer.from_file(str(path))
    if path.name == "vocab.json":
        return _byte_level(models.BPE.from_file(str(path), str(path.with_name("merges.txt"))))
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in path.read_text().splitlines())}
    return _byte_level(models.BPE(*_merges(ranks)))


def _byte_level(model: models.BPE) -> FastTokenizer:
    tokenizer = FastTokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(ranks: dict[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A tiktoken vocabulary as byte-level BPE: its ids by visible text, and the pairs that merge, first ones first."""
    visible = visible_bytes()

    def shown(token: bytes) -> str:
        return "".join(visible[byte] for byte in token)

    pairs = []
    for token in sorted((t for t in ranks if len(t) > 1), key=ranks.__getitem__):
        splits = ((token[:at], token[at:]) for at in range(1, len(token)))
        known = [(left, right) for left, right in splits if left in ranks and right in ranks]
        pairs += [(shown(left), shown(right)) for left, right in sorted(known, key=lambda p: (ranks[p[0]], ranks[p[1]]))]
    return {shown(token): rank for token, rank in ranks.items()}, pairs


def visible_bytes() -> Sequence[str]:
    """GPT-2's stand-in character for each byte: itself where it is printable, else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + hidden.index(byte)) for byte in range(256)]
