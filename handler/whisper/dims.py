"""Sizes of a checkpoint, and the time constants that all checkpoints share. Knows no tensor."""

from dataclasses import dataclass

from handler.schema.window import SAMPLE_RATE

N_FFT = 400  # samples: 25 ms
HOP_LENGTH = 160  # samples: 10 ms
FRAMES_PER_POSITION = 2  # mel frames per audio position, because the encoder's second convolution has stride 2
TIMESTAMP_S = FRAMES_PER_POSITION * HOP_LENGTH / SAMPLE_RATE  # 0.02 s between audio positions and between timestamps


@dataclass(frozen=True, slots=True)
class Dims:
    """Sizes of a checkpoint, named as in openai/whisper, whisper/model.py (ModelDimensions)."""

    n_mels: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_vocab: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    @property
    def window_samples(self) -> int:
        """Return the number of samples in a full window."""
        return self.n_audio_ctx * FRAMES_PER_POSITION * HOP_LENGTH
