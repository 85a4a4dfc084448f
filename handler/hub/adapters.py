"""Find and load the weights by which a checkpoint for many languages differs from one language to the next.

Source: transformers, models/wav2vec2/modeling_wav2vec2.py (load_adapter); Pratap et al., MMS, 2023.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from handler.engine.json_file import read_json
from handler.errors import ModelUnavailable
from handler.languages import language_code

_ADAPTER = re.compile(r"adapter\.(.+)\.safetensors")
_MAX_TOLD = 20  # languages in a message
# The codes of ISO 639-3 by which MMS calls the languages that have another code here.
_CODES = {
    "eng": "en",
    "cmn": "zh",
    "deu": "de",
    "spa": "es",
    "rus": "ru",
    "kor": "ko",
    "fra": "fr",
    "jpn": "ja",
    "por": "pt",
    "tur": "tr",
    "pol": "pl",
    "cat": "ca",
    "nld": "nl",
    "ara": "ar",
    "swe": "sv",
    "ita": "it",
    "ind": "id",
    "hin": "hi",
    "fin": "fi",
    "vie": "vi",
    "heb": "he",
    "ukr": "uk",
    "ell": "el",
    "zlm": "ms",
    "ces": "cs",
    "ron": "ro",
    "dan": "da",
    "hun": "hu",
    "tam": "ta",
    "nob": "no",
    "tha": "th",
    "urd": "ur",
    "hrv": "hr",
    "bul": "bg",
    "lit": "lt",
    "lat": "la",
    "mri": "mi",
    "mal": "ml",
    "cym": "cy",
    "slk": "sk",
    "tel": "te",
    "fas": "fa",
    "lav": "lv",
    "ben": "bn",
    "srp": "sr",
    "azj": "az",
    "slv": "sl",
    "kan": "kn",
    "ekk": "et",
    "est": "et",
    "mkd": "mk",
    "bre": "br",
    "eus": "eu",
    "isl": "is",
    "hye": "hy",
    "npi": "ne",
    "mon": "mn",
    "bos": "bs",
    "kaz": "kk",
    "sqi": "sq",
    "swh": "sw",
    "glg": "gl",
    "mar": "mr",
    "pan": "pa",
    "sin": "si",
    "khm": "km",
    "sna": "sn",
    "yor": "yo",
    "som": "so",
    "afr": "af",
    "oci": "oc",
    "kat": "ka",
    "bel": "be",
    "tgk": "tg",
    "snd": "sd",
    "guj": "gu",
    "amh": "am",
    "ydd": "yi",
    "lao": "lo",
    "uzb": "uz",
    "fao": "fo",
    "hat": "ht",
    "pus": "ps",
    "pbt": "ps",
    "tuk": "tk",
    "nno": "nn",
    "mlt": "mt",
    "san": "sa",
    "ltz": "lb",
    "mya": "my",
    "bod": "bo",
    "tgl": "tl",
    "mlg": "mg",
    "asm": "as",
    "tat": "tt",
    "haw": "haw",
    "lin": "ln",
    "hau": "ha",
    "bak": "ba",
    "jav": "jw",
    "sun": "su",
    "yue": "yue",
}


def adapter_file(language: str) -> str:
    """Return the name of the file with a checkpoint's weights for a language."""
    return f"adapter.{language}.safetensors"


def adapter_languages(files: Iterable[str]) -> list[str]:
    """Return the languages that weights are there for, by the names of all files of a checkpoint."""
    return sorted(match[1] for name in files if (match := _ADAPTER.fullmatch(name)))


def has_adapters(folder: Path) -> bool:
    """Return whether the checkpoint in a folder is one that has weights for each language."""
    with suppress(OSError, ValueError):
        return read_json(folder / "config.json").get("adapter_attn_dim") is not None
    return False


def has_adapter(folder: Path, language: str) -> bool:
    """Return whether a folder has the weights for a language."""
    return (folder / adapter_file(language)).is_file()


def no_adapter(language: str, reason: str, languages: Sequence[str]) -> ModelUnavailable:
    """Return the error for a language without weights, which names those that have some."""
    told = ", ".join(languages[:_MAX_TOLD]) + (", …" if len(languages) > _MAX_TOLD else "")
    return ModelUnavailable(f"MODEL_LANGUAGE={language}: {reason}; expected one of {told or 'none'}")


def load_adapter(model: Any, language: str) -> None:
    """Replace the weights that differ from language to language, and the layer that yields its letters."""
    model.load_adapter(language, force_load=True, local_files_only=True, use_safetensors=True)


def code_of(language: str) -> str | None:
    """Return the code of a language that a checkpoint calls by a code of three letters, or None if it has none here.

    A script that follows, as in azj-script_latin, does not matter.
    """
    name = language.partition("-script")[0]
    return _CODES.get(name) or language_code(name)
