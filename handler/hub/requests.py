"""How each family of generating models is told what to do with windows: its inputs, language, prompt and hotwords.

Sources: transformers 5.24, the processors of the families (models/*/processing_*.py).
"""

import inspect
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from handler.hub.features import Features, on_device_as
from handler.languages import language_code
from handler.schema.window import Samples, Window

# What Qwen3-ASR writes before its text if no language is named. Source: Qwen3ASRProcessor.decode.
_TOLD_LANGUAGE = re.compile(r"^\s*language (?P<name>[^<]*)<asr_text>", re.IGNORECASE)
# For a batch whose prompts differ in length: what is generated follows all of them at once.
_PADDED = {
    "text_kwargs": {"padding": True, "padding_side": "left", "return_tensors": "pt"},
    "audio_kwargs": {"return_tensors": "pt"},
}
DEFAULT_LANGUAGE = "en"  # of models that must be told one, if the request names none
# The codes of ISO 639-3 that Seamless uses for languages whose code here has two letters.
SEAMLESS_CODES = {
    "en": "eng",
    "de": "deu",
    "fr": "fra",
    "es": "spa",
    "it": "ita",
    "pt": "por",
    "nl": "nld",
    "pl": "pol",
    "ru": "rus",
    "uk": "ukr",
    "cs": "ces",
    "sk": "slk",
    "sv": "swe",
    "da": "dan",
    "fi": "fin",
    "hu": "hun",
    "ro": "ron",
    "bg": "bul",
    "el": "ell",
    "tr": "tur",
    "ar": "arb",
    "he": "heb",
    "hi": "hin",
    "bn": "ben",
    "ur": "urd",
    "fa": "pes",
    "zh": "cmn",
    "yue": "yue",
    "ja": "jpn",
    "ko": "kor",
    "vi": "vie",
    "th": "tha",
    "id": "ind",
    "ms": "zsm",
    "tl": "tgl",
    "sw": "swh",
    "ca": "cat",
    "hr": "hrv",
    "sr": "srp",
    "sl": "slv",
    "lt": "lit",
    "lv": "lvs",
    "et": "est",
    "is": "isl",
    "cy": "cym",
    "mt": "mlt",
    "ta": "tam",
    "te": "tel",
}


class UntoldRequest:
    """For networks that are told neither language nor prompt, and write nothing but the transcript."""

    takes_prompt = False  # whether the family reads a text before the audio
    takes_hotwords = False  # whether it reads words that may occur

    def knows(self, language: str) -> bool:
        """Return whether the network can be told the language, which is a code."""
        return False

    def read(self, text: str) -> tuple[str, str | None]:
        """Return the text as it is; it tells no language."""
        return text, None


class PlainRequest(UntoldRequest):
    """For networks that take audio and nothing else."""

    def __init__(self, features: Features) -> None:
        self._features = features

    def inputs(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Return the arguments of `generate` for windows."""
        return dict(self._features(windows).tensors)


class SeamlessRequest(PlainRequest):
    """For SeamlessM4T, which is told the language of the text to write, whatever is spoken.

    `codes` are the languages that the checkpoint has tokens for, as it calls them.
    """

    def __init__(self, features: Features, codes: Collection[str]) -> None:
        super().__init__(features)
        self._codes = codes

    def knows(self, language: str) -> bool:
        """Return whether the checkpoint has a token for the language."""
        return SEAMLESS_CODES.get(language) in self._codes

    def inputs(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Return the arguments of `generate` for windows, which have the language and the task in common."""
        params = windows[0].params
        language = "en" if params.task == "translate" else params.language or DEFAULT_LANGUAGE
        return {**super().inputs(windows), "tgt_lang": SEAMLESS_CODES[language]}


class CohereRequest(PlainRequest):
    """For Cohere Transcribe, whose decoder begins with a prompt that names the language."""

    def __init__(self, features: Features, processor: Any) -> None:
        super().__init__(features)
        self._processor = processor

    def knows(self, language: str) -> bool:
        """Return whether the vocabulary has a token for the language."""
        return f"<|{language}|>" in self._processor.tokenizer.get_vocab()

    def inputs(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Return the arguments of `generate` for windows."""
        prompts = [
            self._processor.get_decoder_prompt_ids(language=window.params.language, punctuation=True)
            for window in windows
        ]
        features = super().inputs(windows)
        device = next(iter(features.values())).device
        return {**features, "decoder_input_ids": torch.tensor(prompts, device=device)}


class ChatRequest:
    """For language models that hear: what is asked of them is written by their processor.

    `processor` has the method `apply_transcription_request`, whose parameters say what the family can be told.
    """

    def __init__(self, processor: Any, model: Any, model_id: str) -> None:
        self._processor = processor
        self._model = model
        self._parameters = inspect.signature(processor.apply_transcription_request).parameters
        self._fixed: dict[str, Any] = {"model_id": model_id} if "model_id" in self._parameters else {}
        if "tokenize" in self._parameters:
            self._fixed["processor_kwargs"] = _PADDED

    def knows(self, language: str) -> bool:
        """Return whether the processor accepts the language."""
        name = next((name for name in ("source_language", "language") if name in self._parameters), None)
        if name is None:
            return False
        try:
            self._processor.apply_transcription_request(
                np.zeros(1, np.float32), **self._fixed, **{name: language}, tokenize=False
            )
        except (ValueError, KeyError):  # it names the languages that it accepts
            return False
        return True

    @property
    def takes_prompt(self) -> bool:
        """Whether the family reads a text before the audio."""
        return "prompt" in self._parameters

    @property
    def takes_hotwords(self) -> bool:
        """Whether the family reads words that may occur, as such or as part of a prompt."""
        return "keywords" in self._parameters or self.takes_prompt

    def inputs(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Return the arguments of `generate` for windows."""
        arguments = {name: values for name, values in self._arguments(windows).items() if any(values)}
        audio: list[Samples] = [window.samples for window in windows]
        inputs = self._processor.apply_transcription_request(audio, **self._fixed, **arguments)
        return dict(on_device_as(inputs, self._model.device, self._model.dtype))

    def _arguments(self, windows: Sequence[Window]) -> dict[str, list[Any]]:
        """Return what the family can be told of each window, by the names of its processor's parameters."""
        params = [window.params for window in windows]
        told: dict[str, list[Any]] = {}
        if "source_language" in self._parameters:
            told["source_language"] = [each.language or DEFAULT_LANGUAGE for each in params]
            told["target_language"] = [
                "en" if each.task == "translate" else each.language or DEFAULT_LANGUAGE for each in params
            ]
        elif "language" in self._parameters:
            told["language"] = [each.language for each in params]
        if "keywords" in self._parameters:
            told["keywords"] = [[word.strip() for word in each.hotwords.split(",") if word.strip()] for each in params]
            told["prompt"] = [each.prompt or None for each in params]
        elif self.takes_prompt:
            told["prompt"] = [" ".join(filter(None, (each.prompt, each.hotwords))) or None for each in params]
        return told

    def read(self, text: str) -> tuple[str, str | None]:
        """Return the transcript in a text, and the code of the language that the text tells before it, if any."""
        told = _TOLD_LANGUAGE.match(text)
        if told is None:
            return text, None
        return text[told.end() :], language_code(told["name"])


class GraniteRequest(UntoldRequest):
    """For Granite Speech, whose chat template holds a sentence that asks for the transcript, with keywords if any."""

    takes_hotwords = True

    def __init__(self, processor: Any, model: Any) -> None:
        self._processor = processor
        self._model = model

    def inputs(self, windows: Sequence[Window]) -> dict[str, Any]:
        """Return the arguments of `generate` for windows."""
        texts = [self._chat(window) for window in windows]
        audio = [torch.from_numpy(window.samples) for window in windows]
        inputs = self._processor(texts, audio, device=str(self._model.device), return_tensors="pt", padding=True)
        return dict(on_device_as(inputs, self._model.device, self._model.dtype))

    def _chat(self, window: Window) -> str:
        params = window.params
        question = f"{self._processor.audio_token}can you transcribe the speech into a written format?"
        if params.task == "translate":
            question = f"{self._processor.audio_token}translate the speech to English."
        if params.hotwords:
            question += f" Keywords: {params.hotwords}"
        chat = [{"role": "user", "content": question}]
        return str(self._processor.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
