"""Put together what decodes windows with a loaded network: its processor, its recognizer and what it can do.

Knows no file format.
"""

from pathlib import Path
from typing import Any

from handler.hub.adapters import code_of
from handler.hub.ctc import CtcRecognizer
from handler.hub.families import Family, Form, Kind
from handler.hub.features import Features
from handler.hub.generation import GenerateRecognizer, Request
from handler.hub.model_card import stated_languages
from handler.hub.recognizer import Recognizer
from handler.hub.requests import ChatRequest, CohereRequest, GraniteRequest, PlainRequest, SeamlessRequest
from handler.hub.transducer import AUTO, TransducerRecognizer
from handler.hub.vocabulary import Vocabulary
from handler.languages import LANGUAGES, language_code
from handler.schema.capabilities import Capabilities


class Parts:
    """The parts of an engine for the model in a folder.

    `language` is what the settings say that the checkpoint transcribes, if they do, and `adapter` the same if the
    checkpoint has weights, and letters, for each language. With `trusts_code`, code beside the checkpoint may run.
    """

    def __init__(
        self,
        family: Family,
        model: Any,
        folder: Path,
        model_id: str,
        language: str | None,
        adapter: str | None,
        trusts_code: bool = False,
    ) -> None:
        from transformers import AutoTokenizer

        self._family = family
        self._model = model
        self._folder = folder
        self._model_id = model_id
        # Unless code is explicitly not trusted, `transformers` would ask on the terminal whether it is.
        self._options = {"local_files_only": True, "trust_remote_code": trusts_code}
        options = {} if adapter is None else {"target_lang": adapter}
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **self._options, **options)
        self._languages = family.languages or stated_languages(folder)
        if language is not None:
            code = code_of(language)
            self._languages = () if code is None else (code,)
        self.vocabulary = Vocabulary(self._tokenizer)
        self.recognizer, self.capabilities = {
            Kind.CTC: self._ctc,
            Kind.TRANSDUCER: self._transducer,
            Kind.GENERATE: self._generate,
        }[family.kind]()

    @property
    def _language(self) -> str | None:
        """The language of a checkpoint that knows only one."""
        return self._languages[0] if len(self._languages) == 1 else None

    def _features(self) -> Features:
        from transformers import AutoFeatureExtractor

        extractor = AutoFeatureExtractor.from_pretrained(self._folder, **self._options)
        return Features(
            extractor, self._model.device, self._model.dtype, self._family.multiple_of, self._family.silence
        )

    def _processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self._folder, **self._options)

    def _ctc(self) -> tuple[Recognizer, Capabilities]:
        blank = self._model.config.pad_token_id
        recognizer = CtcRecognizer(self._model, self._features(), self.vocabulary, blank, self._language)
        return recognizer, Capabilities(languages=self._languages, word_times=True, token_logprobs=True)

    def _transducer(self) -> tuple[Recognizer, Capabilities]:
        takes_language = hasattr(self._model, "prompt_projector")
        prompt_ids = _prompt_ids(self._processor().prompt_dictionary) if takes_language else {}
        if prompt_ids:
            self._languages = tuple(code for code in prompt_ids if code != AUTO)
        recognizer = TransducerRecognizer(self._model, self._features(), self.vocabulary, self._language, prompt_ids)
        return recognizer, Capabilities(
            languages=self._languages,
            word_times=True,
            token_logprobs=True,
            tells_language=len(self._languages) != 1,  # of several, such a model chooses one by itself
        )

    def _generate(self) -> tuple[Recognizer, Capabilities]:
        family, request = self._family, self._request()
        if family.form is not Form.PLAIN:
            known = tuple(code for code in family.languages or LANGUAGES if request.knows(code))
            self._languages = known or self._languages
        budget = family.tokens_per_s, self._language, family.follows_frames
        recognizer = GenerateRecognizer(self._model, self._tokenizer, request, *budget)
        return recognizer, Capabilities(
            languages=self._languages,
            tells_language=family.tells_language,
            needs_language=family.needs_language,
            translates=family.translates,
            prompt=request.takes_prompt,
            hotwords=request.takes_hotwords,
            longest_window_s=family.longest_window_s,
        )

    def _request(self) -> Request:
        form = self._family.form
        if form is Form.CHAT:
            return ChatRequest(self._processor(), self._model, self._model_id)
        if form is Form.GRANITE:
            return GraniteRequest(self._processor(), self._model)
        if form is Form.COHERE:
            return CohereRequest(self._features(), self._processor())
        if form is Form.SEAMLESS:
            return SeamlessRequest(self._features(), self._model.generation_config.text_decoder_lang_to_code_id)
        return PlainRequest(self._features())


def _prompt_ids(dictionary: dict[str, int]) -> dict[str, int]:
    """Return the number of the prompt for each language that this server has a code for, and for "auto"."""
    prompt_ids = {AUTO: int(dictionary[AUTO])}
    for name, number in sorted(dictionary.items(), key=lambda item: len(item[0])):  # a bare code before a locale
        code = language_code(name)
        if code is not None:
            prompt_ids.setdefault(code, int(number))
    return prompt_ids
