"""Hear samples of known speakers, and find who of a recording they are. Knows no network and no word.

A reference is decoded in an audio process as any file is, and heard in the thread of the speaker model.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import closing, nullcontext

import numpy as np
from numpy.typing import NDArray

from handler.audio.audio_process import AudioProcess
from handler.audio.base64_text import decode_base64
from handler.audio.media_report import DecodeOptions
from handler.audio.urls import MAX_SHOWN_CHARS, scheme_of
from handler.errors import AsrError, Cancelled, InvalidRequest
from handler.schema.options import Options
from handler.schema.speakers import SpeakerActivity, SpeakerCount, SpeakerModel
from handler.schema.window import SAMPLE_RATE, Samples
from handler.transcription.shared_resources import SharedResources

MIN_S, MAX_S, SLACK_S = 2.0, 10.0, 0.25  # seconds of a reference; codecs add some silence
MIN_SIMILARITY = 0.4  # cosine of two voices that are the same; docs/speakers.md has what was measured
FIELD = "known_speaker_references"
URL_SCHEMES = ("http", "https", "s3")
Voice = NDArray[np.float32]


class KnownSpeakers:
    """The speakers that a request names, with a sample of each."""

    def __init__(self, resources: SharedResources, options: Options) -> None:
        self._resources = resources
        self._names = options.known_speaker_names or ()
        self._references = options.known_speaker_references or ()
        self._voices: list[Voice] = []  # empty until all have been heard
        self._interrupts: list[Callable[[], None]] = []  # of what is being read
        self._is_closed = False

    async def hear(self) -> None:
        """Hear all references. Raises AsrError, which names the field."""
        if self._names and self._resources.speaker_threads is not None:
            voices = [asyncio.to_thread(self._voice, index) for index in range(len(self._references))]
            self._voices = list(await asyncio.gather(*voices))

    def close(self) -> None:
        """Stop hearing. Any thread may call this."""
        self._is_closed = True
        for interrupt in tuple(self._interrupts):
            interrupt()

    def names_in(self, activity: SpeakerActivity) -> dict[int, str]:
        """Return the names of those speakers of a recording who are known. Each name is one speaker's at most."""
        from scipy.optimize import linear_sum_assignment

        if not self._voices or activity.voices is None or not activity.voices.any():
            return {}
        similarity = activity.voices @ np.stack(self._voices).T
        pairs = zip(*linear_sum_assignment(-similarity), strict=True)
        return {
            int(speaker): self._names[known] for speaker, known in pairs if similarity[speaker, known] >= MIN_SIMILARITY
        }

    def _voice(self, index: int) -> Voice:
        """Return the voice of a reference. Raises AsrError."""
        try:
            voice = self._heard(self._samples(self._references[index]))
        except AsrError as exc:
            raise type(exc)(f"{FIELD}[{index}]: {exc.message}", FIELD) from None
        if voice is None:
            raise InvalidRequest(f"{FIELD}[{index}] must be speech of one person; nobody is heard in it", FIELD)
        return voice

    def _heard(self, samples: Samples) -> Voice | None:
        """Return the voice in some samples, or None if nobody is heard."""
        model, threads = self._resources.speaker_model, self._resources.speaker_threads
        assert model is not None
        assert threads is not None
        try:
            return threads.submit(_voice_in, model, samples).result()
        except (RuntimeError, CancelledError):  # the pool takes no more work
            raise Cancelled("the worker is shutting down") from None

    def _samples(self, reference: str) -> Samples:
        """Return the samples of a reference, [n] at 16 kHz. Raises AsrError."""
        fetcher = self._resources.fetcher
        with fetcher.spool() as spool:
            if scheme_of(reference[:MAX_SHOWN_CHARS]) in URL_SCHEMES:
                fetcher.start(reference, spool)
            else:
                spool.write(decode_base64(reference, FIELD))
                spool.finish()
            process = AudioProcess(self._resources.audio_processes, spool, DecodeOptions(), nullcontext)
            self._interrupts += [spool.stop, process.close]
            if self._is_closed:
                raise Cancelled("the request is over")
            try:
                samples = _read(process)
            except AsrError:
                spool.check()  # the download's error explains more than the decoder's, which it caused
                raise
            finally:
                spool.stop()
        return samples


def _read(process: AudioProcess) -> Samples:
    """Return the samples of a file that is as long as a reference may be. Raises AsrError."""
    blocks: list[Samples] = []
    seconds = 0.0
    with closing(process.blocks()) as following:
        for block in following:
            blocks.append(block[:, 0].astype(np.float32))
            seconds += len(block) / SAMPLE_RATE
            if seconds > MAX_S + SLACK_S:
                break
    if not MIN_S - SLACK_S <= seconds <= MAX_S + SLACK_S:
        told = "more" if seconds > MAX_S else f"{seconds:.1f}"
        raise InvalidRequest(f"expected {MIN_S:g} to {MAX_S:g} seconds of speech; got {told}")
    return np.concatenate(blocks)


def _voice_in(model: SpeakerModel, samples: Samples) -> Voice | None:
    """Return the voice of the one person who is heard, or None if nobody is."""
    from handler.engine.device_errors import device_errors

    with device_errors():
        diarizer = model.new_diarizer()
        diarizer.push(samples)
        voices = diarizer.finish(SpeakerCount(1, 1)).voices
    return None if voices is None or not len(voices) or not voices[0].any() else voices[0]
