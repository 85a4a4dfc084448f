"""Speech of known words from the voice that hibari-tts carries, and encoders for it."""

import io
from functools import cache

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from handler.schema.window import SAMPLE_RATE

Samples = NDArray[np.float32]

FOX = "The quick brown fox jumps over the lazy dog."
PANGRAM = "Pack my box with five dozen bottles of water, and then carry them down to the river."
SENTENCES = (
    "The meeting will begin at nine in the morning, and everybody should bring a notebook.",
    "A small boat crossed the lake while the sun was setting behind the mountains.",
    "She asked the driver to wait for ten minutes in front of the old railway station.",
    "Fresh bread and strong coffee are the best reasons to get up early on a cold day.",
    "The library keeps thousands of books about the history of ships and harbors.",
    "Nobody expected the concert to be cancelled because of a little rain and wind.",
)


@cache
def _voice() -> object:
    from hibari import Hibari

    return Hibari()


@cache
def say(text: str) -> Samples:
    """Speech of a text, [n] at 16 kHz, with 0.2 s of silence at both ends."""
    spoken = soxr.resample(_voice()(text, seed=0), 24_000, SAMPLE_RATE)  # type: ignore[operator]
    return np.pad(np.clip(spoken, -1, 1).astype(np.float32), SAMPLE_RATE // 5)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def wav(
    samples: Samples, rate: int = SAMPLE_RATE, subtype: str = "PCM_16", format: str = "WAV", channels: int = 1
) -> bytes:
    """A file by libsndfile; `samples` are at 16 kHz and resampled to `rate`."""
    file = io.BytesIO()
    planes = np.repeat(soxr.resample(samples, SAMPLE_RATE, rate)[:, None], channels, 1)
    soundfile.write(file, planes, rate, subtype=subtype, format=format)
    return file.getvalue()


def container(
    samples: Samples | None,
    format: str,
    codec: str = "",
    rate: int = 16_000,
    layout: str = "mono",
    picture: bool = False,
) -> bytes:
    """A file by FFmpeg: sound, moving pictures, or both."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as out:
        audio = out.add_stream(codec, rate=rate, layout=layout) if samples is not None else None
        video = out.add_stream("mpeg4", rate=5) if picture else None
        if video is not None:
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
            for shade in range(10):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8))))
            out.mux(video.encode())
        if samples is not None and audio is not None:
            planes = np.repeat(soxr.resample(samples, SAMPLE_RATE, rate)[None], audio.layout.nb_channels, 0)
            for at in range(0, planes.shape[1], 1024):
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes[:, at : at + 1024]), "fltp", layout)
                frame.sample_rate, frame.pts = rate, at
                out.mux(audio.encode(frame))
            out.mux(audio.encode())
    return file.getvalue()
