"""Whisper's tokens: ids of special tokens, prompts, and conversion of text. Knows no tensor and no audio.

Source: openai/whisper, whisper/tokenizer.py.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from handler.errors import ModelUnavailable
from handler.languages import LANGUAGES
from handler.tokens.byte_level import bytes_of, visible_bytes

NUM_TIMESTAMPS = 1501  # tokens for 0.00, 0.02 … 30.00 s
_NUM_LANGUAGES = 99  # languages of the smallest multilingual vocabulary; an English-only one reserves as many ids
_MULTILINGUAL_VOCAB = 51_865  # size of the smallest multilingual vocabulary
_SYMBOLS = '"#()*+/:;<=>@[\\]^_`{|}~「」『』'
_SYMBOL_RUNS = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
_MUSIC = "♩♪♫♬♭♮♯"
_CHECK_TEXT = " the quick brown fox, naïve"
_MAX_BYTES = 16 * 1024**2  # of a file; that of Whisper large takes 4 MB
_MAX_TOKEN_BYTES = 256


@dataclass(frozen=True, slots=True)
class Specials:
    """Ids of the special tokens of a vocabulary.

    The ids depend only on the size of the vocabulary. They come after the ids of all text tokens, in this order: end of
    text, start of transcript, languages, tasks, further markers, timestamps.
    """

    eot: int  # end of text; every smaller id is a text token
    sot: int  # start of transcript
    languages: tuple[str, ...]  # codes, in the order of their ids, of which the first is sot + 1
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
        """Return the ids of the special tokens of a vocabulary with `n_vocab` tokens.

        Raises ModelUnavailable if no Whisper vocabulary has this size.
        """
        multilingual = n_vocab >= _MULTILINGUAL_VOCAB
        num_languages = _NUM_LANGUAGES + (n_vocab - _MULTILINGUAL_VOCAB if multilingual else 0)
        eot = 50_257 if multilingual else 50_256
        translate = eot + 2 + num_languages
        if num_languages > len(LANGUAGES) or translate + 6 + NUM_TIMESTAMPS != n_vocab:
            raise ModelUnavailable(f"expected a Whisper vocabulary of 51864 to 51866 ids; the checkpoint has {n_vocab}")
        return cls(
            eot=eot,
            sot=eot + 1,
            languages=tuple(LANGUAGES)[:num_languages],
            translate=translate,
            transcribe=translate + 1,
            start_of_lm=translate + 2,
            start_of_prev=translate + 3,
            no_speech=translate + 4,
            no_timestamps=translate + 5,
            timestamp_begin=translate + 6,
            vocab=n_vocab,
            multilingual=multilingual,
        )

    def language_id(self, code: str) -> int:
        """Return the token id of a language code. Raises ValueError if the vocabulary does not have the language."""
        return self.sot + 1 + self.languages.index(code)


class Tokenizer:
    """Converts text to token ids and back, and builds prompts."""

    def __init__(self, backend: FastTokenizer, specials: Specials) -> None:
        backend.encode_special_tokens = True  # a text that looks like a special token is encoded as plain text
        self._backend = backend
        self.specials = specials

    @classmethod
    def from_folder(cls, folder: Path, n_vocab: int) -> "Tokenizer":
        """Load the tokenizer of a checkpoint whose vocabulary has `n_vocab` tokens.

        Reads the first of these files that the folder has: tokenizer.json, vocab.json (with merges.txt),
        multilingual.tiktoken (or gpt2.tiktoken for an English-only model). If the folder has none of these files, reads
        the vocabulary of an installed `openai-whisper` package. Raises ModelUnavailable if no file is found, or if the
        file is not a Whisper vocabulary.
        """
        specials = Specials.of_vocab(n_vocab)
        name = "multilingual.tiktoken" if specials.multilingual else "gpt2.tiktoken"
        candidates = (
            folder / "tokenizer.json",
            folder / "vocab.json",
            folder / name,
            _package_folder("whisper") / "assets" / name,
        )
        file = next((path for path in candidates if path.is_file()), None)
        if file is None:
            raise ModelUnavailable(
                f"no vocabulary in {folder.name}: expected tokenizer.json, vocab.json with merges.txt, or {name} "
                "(the package openai-whisper carries the last one)"
            )
        try:
            return cls(_read_vocabulary(file), specials).checked()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # `tokenizers` raises a bare Exception for files that it cannot read, or panics
            raise ModelUnavailable(f"{file.name} is not a vocabulary of Whisper: {str(exc)[:200]}") from exc

    def checked(self) -> "Tokenizer":
        """Return self. Raises ValueError if a text does not survive its conversion to text tokens and back."""
        ids = self._backend.encode(_CHECK_TEXT, add_special_tokens=False).ids
        if not ids or max(ids) >= self.specials.eot:
            raise ValueError(f"its text ids do not end at {self.specials.eot}")
        if self.decode(ids) != _CHECK_TEXT:
            raise ValueError(f"it turns {_CHECK_TEXT!r} into {self.decode(ids)[:100]!r}")
        return self

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text. A special token written out in the text is encoded as plain text.

        What the vocabulary has no text token for is left out. Only a damaged vocabulary lacks any.
        """
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return [token for token in ids if token < self.specials.eot]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids. Special tokens and timestamps are left out."""
        return self._backend.decode([token for token in ids if token < self.specials.eot], skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a text token, which may be only part of a character."""
        return bytes_of(self._backend.id_to_token(token) or "")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """Return the UTF-8 bytes of each token. Those of special tokens and timestamps are empty."""
        return [self.token_bytes(token) if token < self.specials.eot else b"" for token in ids]

    def prompt(
        self, language: str | None, task: str, previous: str = "", hotwords: str = "", *, max_context: int
    ) -> list[int]:
        """Return the token ids that precede the first decoded token: context, start of transcript, language and task.

        The context is the hotwords followed by the text `previous`, together at most `max_context` tokens. Hotwords
        are cut at the end to fit in `max_context` tokens, or in half as many if there is previous text. The previous
        text is cut at the beginning to fit in the rest. If `language` is None, the language is English. The prompt
        of an English-only vocabulary contains no language and no task.
        """
        ids = self.specials
        text_ids = self.encode(" " + previous.strip()) if previous.strip() else []
        hotword_ids = self.encode(" " + hotwords.strip()) if hotwords.strip() else []
        hotword_ids = hotword_ids[: max_context // 2 if text_ids else max_context]
        max_text_ids = max_context - len(hotword_ids)
        context = hotword_ids + (text_ids[-max_text_ids:] if max_text_ids > 0 else [])
        start = [ids.start_of_prev, *context, ids.sot] if context else [ids.sot]
        if not ids.multilingual:
            return start
        task_id = ids.translate if task == "translate" else ids.transcribe
        return [*start, ids.language_id(language or "en"), task_id]

    @cached_property
    def non_speech(self) -> tuple[int, ...]:
        """Ids of symbols that nobody speaks, such as brackets, musical notes and dashes.

        Source: openai/whisper, whisper/tokenizer.py (non_speech_tokens).
        """
        tokens = {*self.encode(" -")[:1], *self.encode(" '")[:1]}
        for symbol in (*_SYMBOLS, *_SYMBOL_RUNS.split(), *_MUSIC):
            for ids in (self.encode(symbol), self.encode(" " + symbol)):
                if len(ids) == 1 or symbol in _MUSIC:
                    tokens.update(ids[:1])
        return tuple(sorted(tokens))


def _package_folder(package: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else Path("/nonexistent")


def _read_vocabulary(path: Path) -> FastTokenizer:
    """Read a vocabulary of one of three formats, by the name of its file.

    Raises OSError, ValueError, and whatever `tokenizers` raises for a file that it cannot read.
    """
    merges = path.with_name("merges.txt")
    for file in (path, merges) if path.name == "vocab.json" else (path,):
        if not file.is_file() or file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{file.name} is missing, or has more than {_MAX_BYTES} bytes")
    if path.name == "tokenizer.json":
        return FastTokenizer.from_file(str(path))
    if path.name == "vocab.json":
        return _byte_level(models.BPE.from_file(str(path), str(merges)))
    ranks: dict[bytes, int] = {}
    for line in path.read_text().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    if max(map(len, ranks)) > _MAX_TOKEN_BYTES:
        raise ValueError(f"expected tokens of at most {_MAX_TOKEN_BYTES} bytes")
    return _byte_level(models.BPE(*_merges(ranks)))


def _byte_level(model: models.BPE) -> FastTokenizer:
    tokenizer = FastTokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(ranks: dict[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Convert a tiktoken vocabulary (token bytes → rank) to the vocabulary and the merges of byte-level BPE.

    The vocabulary maps each token, in visible characters, to its id. The merges are pairs of such tokens, in the
    order in which to merge them.
    """
    visible = visible_bytes()

    def to_visible(token: bytes) -> str:
        return "".join(visible[byte] for byte in token)

    def split_ranks(pair: tuple[bytes, bytes]) -> tuple[int, int]:
        return ranks[pair[0]], ranks[pair[1]]

    merges = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        splits = ((token[:index], token[index:]) for index in range(1, len(token)))
        pairs = [(prefix, suffix) for prefix, suffix in splits if prefix in ranks and suffix in ranks]
        merges += [(to_visible(prefix), to_visible(suffix)) for prefix, suffix in sorted(pairs, key=split_ranks)]
    return {to_visible(token): rank for token, rank in ranks.items()}, merges
