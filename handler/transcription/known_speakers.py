"""Hear samples of known speakers, and find who of a recording they are. Knows no network and no word.

Samples are read one after the other, in a thread of the request's own, and decoded in audio processes as any file is.
They are heard in the thread of the speaker model.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext

import numpy as np
from numpy.typing import NDArray

from handler.audio.audio_process import AudioProcess
from handler.audio.base64_text import decode_base64
from handler.audio.media_report import DecodeOptions
from handler.audio.spool import Spool
from handler.audio.transfer_thread import run_apart
from handler.audio.urls import MAX_SHOWN_CHARS, scheme_of
from handler.errors import AsrError, Cancelled, DownloadFailed, InvalidRequest
from handler.schema.options import Options
from handler.schema.speakers import SpeakerActivity, SpeakerCount, SpeakerModel
from handler.schema.window import SAMPLE_RATE, Samples
from handler.transcription.diarization import run_in
from handler.transcription.shared_resources import SharedResources

MIN_S, MAX_S, SLACK_S = 2.0, 10.0, 0.25  # seconds of a sample; codecs add some silence
MAX_BYTES = 16 * 1024**2  # of the file of a sample
READ_TIMEOUT_S = 60.0  # for all samples of a request
MIN_SIMILARITY = 0.45  # cosine of two voices that are the same; docs/speakers.md has what was measured
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
        self._interrupts: list[Callable[[], object]] = []  # of what is being read or heard
        self._is_closed = False

    async def hear(self) -> None:
        """Hear all samples. Raises AsrError, which names the field and the number of the sample."""
        if not self._names:
            return
        try:
            samples = await run_apart(self._read_all, READ_TIMEOUT_S)
        except TimeoutError:
            raise DownloadFailed(f"{FIELD} could not be read within {READ_TIMEOUT_S:g} s", FIELD) from None
        finally:
            self.close()
        voices = [await self._heard(each) for each in samples]
        missing = [index for index, voice in enumerate(voices) if voice is None]
        if missing:
            raise InvalidRequest(f"{FIELD}[{missing[0]}] must be speech of one person; nobody is heard in it", FIELD)
        self._voices = [voice for voice in voices if voice is not None]

    def close(self) -> None:
        """Stop reading and hearing. Any thread may call this."""
        self._is_closed = True
        for interrupt in tuple(self._interrupts):
            interrupt()

    def names_in(self, activity: SpeakerActivity) -> dict[int, str]:
        """Return the names of those speakers of a recording who are known. Each name is one speaker's at most."""
        if not self._voices or activity.voices is None or not activity.voices.any():
            return {}
        from scipy.optimize import linear_sum_assignment

        similarity = activity.voices @ np.stack(self._voices).T
        is_similar = similarity >= MIN_SIMILARITY
        pairs = zip(*linear_sum_assignment(np.where(is_similar, -similarity, 0)), strict=True)
        return {int(speaker): self._names[known] for speaker, known in pairs if is_similar[speaker, known]}

    async def _heard(self, samples: Samples) -> Voice | None:
        """Return the voice in some samples, or None if nobody is heard."""
        model, threads = self._resources.speaker_model, self._resources.speaker_threads
        assert model is not None
        assert threads is not None
        return await run_in(threads, _voice_in, model, samples)  # cancelled with the caller

    def _read_all(self) -> list[Samples]:
        """Return the samples of each reference, [n] at 16 kHz. Raises AsrError."""
        spools = [self._resources.fetcher.spool(MAX_BYTES) for _ in self._references]
        try:
            for index, (reference, spool) in enumerate(zip(self._references, spools, strict=True)):
                with _named(index):
                    self._fill(spool, reference)
            samples: list[Samples] = []
            for index, spool in enumerate(spools):
                with _named(index):
                    samples.append(self._read(spool))
            return samples
        finally:
            for spool in spools:
                spool.stop()
                spool.close()

    def _fill(self, spool: Spool, reference: str) -> None:
        """Fill a spool with the bytes of a reference, which may go on in another thread."""
        self._interrupts.append(spool.stop)
        self._check_open()
        if scheme_of(reference[:MAX_SHOWN_CHARS]) in URL_SCHEMES:
            self._resources.fetcher.start(reference, spool)
        else:
            spool.write(decode_base64(reference, FIELD))
            spool.finish()

    def _read(self, spool: Spool) -> Samples:
        process = AudioProcess(self._resources.audio_processes, spool, DecodeOptions(), nullcontext)
        self._interrupts.append(process.close)
        self._check_open()
        try:
            samples = _decoded(process)
        finally:
            spool.check()  # the download's error explains more than the decoder's, which it caused
        seconds = len(samples) / SAMPLE_RATE
        if not MIN_S - SLACK_S <= seconds <= MAX_S + SLACK_S:
            told = "more" if seconds > MAX_S else f"{seconds:.1f}"
            raise InvalidRequest(f"expected {MIN_S:g} to {MAX_S:g} seconds of speech; got {told}")
        return samples

    def _check_open(self) -> None:
        if self._is_closed:
            raise Cancelled("the request is over")


@contextmanager
def _named(index: int) -> Iterator[None]:
    """Name the sample that an AsrError of the block is about."""
    try:
        yield
    except AsrError as exc:
        raise type(exc)(f"{FIELD}[{index}]: {exc.message}", FIELD) from None


def _decoded(process: AudioProcess) -> Samples:
    """Return the samples of a file, or those with which it is longer than a sample may be."""
    blocks: list[Samples] = []
    with closing(process.blocks()) as following:
        for block in following:
            blocks.append(block[:, 0].astype(np.float32))
            if sum(map(len, blocks)) > (MAX_S + SLACK_S) * SAMPLE_RATE:
                break
    return np.concatenate(blocks)


def _voice_in(model: SpeakerModel, samples: Samples) -> Voice | None:
    """Return the voice of the one person who is heard, or None if nobody is."""
    from handler.engine.device_errors import device_errors

    with device_errors():
        diarizer = model.new_diarizer()
        diarizer.push(samples)
        voices = diarizer.finish(SpeakerCount(1, 1)).voices
    return None if voices is None or not len(voices) or not voices[0].any() else voices[0]
