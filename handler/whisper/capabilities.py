"""What a Whisper checkpoint can do. Knows no weights."""

from handler.schema.capabilities import Capabilities
from handler.schema.window import SAMPLE_RATE
from handler.whisper.dims import Dims
from handler.whisper.tokenizer import Specials


def capabilities_of(specials: Specials, dims: Dims) -> Capabilities:
    """Return what a checkpoint with these special tokens and dimensions can do."""
    return Capabilities(
        languages=specials.languages if specials.multilingual else ("en",),
        tells_language=specials.multilingual,
        detects_language=specials.multilingual,
        translates=specials.multilingual,
        prompt=True,
        hotwords=True,
        word_times=True,
        token_logprobs=True,
        sampling=True,
        beam_search=True,
        text_tokens=specials.eot,
        longest_window_s=dims.window_samples / SAMPLE_RATE,
    )
