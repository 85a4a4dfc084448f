"""Tell a window what was said before it. Pure functions. Knows no engine and no request."""

from handler.schema.options import Options
from handler.schema.transcript import text_of
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.window_decoder import MAX_CONTEXT_CHARS

# Text decoded at a higher temperature does not become context for the next window.
# Source: SYSTRAN/faster-whisper, prompt_reset_on_temperature.
MAX_CONTEXT_TEMPERATURE = 0.5


def first_prompt(options: Options) -> str:
    """Return the prompt of a window that follows no other."""
    return options.prompt.strip()[-MAX_CONTEXT_CHARS:]


def hotwords_of(options: Options) -> str:
    """Return the hotwords of a window, as far as a model may read them."""
    return options.hotwords.strip()[:MAX_CONTEXT_CHARS]


def next_prompt(prompt: str, decoded: DecodedWindow, options: Options) -> str:
    """Return the prompt of the window that follows one with `prompt`: with its text, if that is reliable."""
    max_temperature = max(MAX_CONTEXT_TEMPERATURE, options.temperature)
    temperatures = (segment.evidence.temperature for segment in decoded.segments if segment.evidence is not None)
    if decoded.is_accepted and all(temperature <= max_temperature for temperature in temperatures):
        return f"{prompt} {text_of(decoded.segments)}".strip()[-MAX_CONTEXT_CHARS:]
    return first_prompt(options)
