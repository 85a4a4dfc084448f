"""What is known of the families of speech models in `transformers`, by the `model_type` of their configuration.

Sources: transformers 5.24, models/auto/modeling_auto.py and the classes and processors that it names.
"""

from dataclasses import dataclass, replace
from enum import Enum

from handler.errors import ModelUnavailable
from handler.hub.requests import SEAMLESS_CODES
from handler.hub.silence import Silence


class Kind(Enum):
    """How a network turns audio into text."""

    CTC = "ctc"  # a token for each frame, in one pass
    TRANSDUCER = "transducer"  # token after token, each with its frame
    GENERATE = "generate"  # token after token, without times


class Form(Enum):
    """How a network that generates text is told what to do."""

    PLAIN = "plain"  # it takes audio alone
    SEAMLESS = "seamless"  # the language of the text
    COHERE = "cohere"  # a prompt of the decoder with the language
    CHAT = "chat"  # what its processor makes of a request to transcribe
    GRANITE = "granite"  # a chat template


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models, and what its loader must know."""

    kind: Kind
    version: str = "5.5"  # of transformers that first has it
    packages: tuple[str, ...] = ()  # modules that it needs besides
    pads: bool = True  # whether a mask makes the network ignore the padding of shorter windows in a batch
    languages: tuple[str, ...] = ()  # codes, if all of its checkpoints know the same ones
    needs_language: bool = False
    tells_language: bool = False  # it finds out the language that is spoken
    translates: bool = False  # into English
    form: Form = Form.PLAIN
    multiple_of: int | None = None  # samples of which it must be given a multiple
    silence: Silence | None = None  # around each window
    follows_frames: bool = False  # it writes a token a frame until the audio ends, most of them padding
    tokens_per_s: float = 15.0  # more than anybody speaks in a second, in any of its languages
    longest_window_s: float = 30.0


_CTC = Family(Kind.CTC)
_TRANSDUCER = Family(Kind.TRANSDUCER, version="5.17")
_PLAIN = Family(Kind.GENERATE)
_CHAT = Family(Kind.GENERATE, form=Form.CHAT, version="5.17", tells_language=True)
# Its encoder masks no padding inside a block of frames.
_GRANITE = Family(Kind.GENERATE, form=Form.GRANITE, packages=("torchaudio",), pads=False, translates=True)
# Source: model card of nvidia/canary-1b-v2.
_CANARY_LANGUAGES = (
    *("bg", "hr", "cs", "da", "nl", "en", "et", "fi", "fr", "de", "el", "hu", "it", "lv", "lt", "mt", "pl", "pt"),
    *("ro", "sk", "sl", "es", "sv", "ru", "uk"),
)
# Source: CohereAsrProcessor, models/cohere_asr/processing_cohere_asr.py.
_COHERE_LANGUAGES = ("ar", "de", "el", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "vi", "zh")
FAMILIES = {
    **dict.fromkeys(("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-bert", "wavlm"), _CTC),
    "parakeet_ctc": replace(_CTC, version="5.17"),  # earlier ones need librosa for its spectrum
    # Convolutions of these carry the padding into the last frames of the audio.
    **dict.fromkeys(("data2vec-audio", "sew", "sew-d", "wav2vec2-conformer", "lasr_ctc"), replace(_CTC, pads=False)),
    "granite_speech5_ctc": replace(_CTC, version="5.23", packages=("torchaudio",), languages=("en",)),
    "omniasr_ctc": replace(_CTC, version="5.24"),
    "parakeet_tdt": _TRANSDUCER,
    "parakeet_rnnt": _TRANSDUCER,
    "nemotron_asr_streaming": _TRANSDUCER,
    "nemotron3_5_asr": _TRANSDUCER,
    # The first layer normalizes over the whole length, so silence changes all of it. Without some before the speech,
    # Moonshine tiny goes on after the text or misses the first word: 8.5 % instead of 6.1 % word errors in the clips of
    # the tests. How much there is behind the speech matters little.
    "moonshine": replace(_PLAIN, pads=False, tokens_per_s=6.5, silence=Silence(0.5, 0.5, 2.0)),
    "moonshine_streaming": replace(_PLAIN, pads=False, tokens_per_s=6.5, multiple_of=80),
    "speech_to_text": replace(_PLAIN, packages=("sentencepiece",)),
    "speecht5": replace(_PLAIN, packages=("sentencepiece",)),
    "speech-encoder-decoder": _PLAIN,
    # Its own `generate` limits the tokens to the frames, of which there are 12.5 a second; its padding has no mask.
    "kyutai_speech_to_text": replace(_PLAIN, pads=False, follows_frames=True, tokens_per_s=100.0),
    "seamless_m4t": replace(_PLAIN, form=Form.SEAMLESS, languages=tuple(SEAMLESS_CODES), translates=True),
    "seamless_m4t_v2": replace(_PLAIN, form=Form.SEAMLESS, languages=tuple(SEAMLESS_CODES), translates=True),
    "cohere_asr": replace(_PLAIN, form=Form.COHERE, languages=_COHERE_LANGUAGES, needs_language=True),
    "canary": replace(_CHAT, languages=_CANARY_LANGUAGES, needs_language=True, tells_language=False, translates=True),
    "qwen3_asr": _CHAT,
    "glmasr": _CHAT,
    "fun_asr_nano": replace(_CHAT, packages=("torchaudio",), languages=("zh", "en", "ja")),
    "omniasr": replace(_CHAT, version="5.24", pads=False),
    "voxtral": replace(_CHAT, packages=("mistral_common",)),
    "granite_speech": _GRANITE,
    "granite_speech_plus": replace(_GRANITE, version="5.17"),
}
# Models of the same mappings that recognize no speech.
OTHERS = {"dia": "it speaks", "vibevoice": "it speaks", "pop2piano": "it writes music"}


def family_of(model_type: str) -> Family:
    """Return the family of a `model_type`. Raises ModelUnavailable if it is none that recognizes speech."""
    if model_type in OTHERS:
        raise ModelUnavailable(f"model_type {model_type} recognizes no speech: {OTHERS[model_type]}")
    if model_type not in FAMILIES:
        known = ", ".join(sorted(("whisper", *FAMILIES)))
        raise ModelUnavailable(f"model_type {model_type or 'is missing'}: expected one of {known}")
    return FAMILIES[model_type]
