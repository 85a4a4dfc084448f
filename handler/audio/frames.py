"""Turn the audio frames that FFmpeg decodes into blocks of float32 samples.

Knows no container and no packet.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from handler.audio.media_report import MediaReport, Planes
from handler.audio.sample_format import FloatScaler, check_sample_format, count_block_frames

SKIPPED_PAUSES = "the file's timestamps leave out more time than its size can account for: later times are too early"
_MIN_GAP_S = 0.1  # a longer gap in the timestamps is filled with silence
_MAX_GAP_S = 3600.0  # a longer gap means that the clock of the timestamps was reset
_FREE_SILENCE_S = 3600.0  # gaps of one file may be filled with so much silence, and with more if it has many bytes:
_BYTES_PER_SILENCE_S = 48  # the thinnest speech codec has as many for each second


class Clock:
    """Follows the timestamps of the frames of one track, in seconds.

    `start_s` is the time at which the recording begins, or None if it begins with the first frame. `now_s` is the time
    at which the next frame is expected. Without `fills_gaps`, all frames follow each other without a gap.
    """

    def __init__(self, start_s: float | None, report: MediaReport, fills_gaps: bool = True) -> None:
        self.start_s = start_s
        self.now_s = start_s or 0.0
        self._report = report
        self._fills_gaps = fills_gaps
        self._silence_s = 0.0
        self._allowed_silence_s = _FREE_SILENCE_S

    def add_bytes(self, count: int) -> None:
        """Add to the number of bytes of encoded audio from which frames are decoded."""
        self._allowed_silence_s += count / _BYTES_PER_SILENCE_S

    def advance(self, frame: Any) -> float:
        """Move on to the end of a frame, and return the seconds of silence that its timestamp leaves before it.

        A gap is left by a pause of the recorder, by lost packets, or by audio that starts later than the container.
        """
        time_s = self.now_s if frame.time is None else frame.time
        if self.start_s is None:
            self.start_s = self.now_s = time_s
        gap_s = time_s - self.now_s
        if abs(gap_s) >= _MAX_GAP_S or not self._fills_gaps:  # the clock was reset, or cannot be relied on
            self.now_s, gap_s = time_s, 0.0
        elif gap_s > _MIN_GAP_S:
            self.now_s = time_s
            if self._silence_s + gap_s > self._allowed_silence_s:
                self._report.warn(SKIPPED_PAUSES)
                gap_s = 0.0
            self._silence_s += gap_s
        else:
            gap_s = 0.0
        self.now_s += frame.samples / frame.sample_rate
        return gap_s


def read_blocks(frames: Iterator[Any], clock: Clock, splits: bool = True) -> Iterator[tuple[Planes, int]]:
    """Yield blocks of samples, each with its sample rate in Hz. Gaps in the timestamps become silence.

    A block is as long as `count_block_frames` says; it is shorter if the audio ends, or if the sample rate or the
    number of channels changes after it. If the caller does not split the channels, long silences have only one.
    Raises UnsupportedMedia.
    """
    return _merge_blocks(_convert(frames, clock, splits))


def _convert(frames: Iterator[Any], clock: Clock, splits: bool) -> Iterator[tuple[Planes, int]]:
    scaler = FloatScaler()
    converter: FrameConverter | None = None
    for frame in frames:
        check_sample_format(frame.sample_rate, frame.layout.nb_channels)
        gap_s = clock.advance(frame)
        if converter is None or not converter.takes(frame):
            if converter is not None:
                yield from converter.finish()
            converter = FrameConverter(frame, scaler, splits)
        yield from converter.convert(frame, gap_s)
    if converter is not None:
        yield from converter.finish()


class FrameConverter:
    """Converts frames of one sample format, one sample rate and one channel layout.

    FFmpeg joins the frames to blocks and converts the samples of each block, which takes a tenth of the time that numpy
    takes frame by frame. A planar frame of eight or more channels must not be read by PyAV 18 without it: PyAV looks
    for the end of a list of planes that has none, and the process crashes.
    """

    def __init__(self, frame: Any, scaler: FloatScaler, splits: bool = True) -> None:
        from av import AudioFifo, AudioResampler

        self._signature = _signature_of(frame)
        self._rate, self._channels = frame.sample_rate, frame.layout.nb_channels
        self._block_frames = count_block_frames(self._rate, self._channels)
        self._splits = splits
        self._scaler = scaler if frame.format.name.startswith(("flt", "dbl")) else None
        self._fifo = AudioFifo()
        self._resampler = AudioResampler("flt", frame.layout, self._rate)
        self._samples_in = self._samples_out = 0
        self._silences: deque[tuple[int, int]] = deque()  # position in the converted samples, number of samples

    def takes(self, frame: Any) -> bool:
        """Return whether a frame is like the first one."""
        return self._signature == _signature_of(frame)

    def convert(self, frame: Any, gap_s: float = 0.0) -> Iterator[tuple[Planes, int]]:
        """Convert a frame that follows `gap_s` seconds of silence, and yield the blocks that are full."""
        if gap_s:
            self._silences.append((self._samples_in, round(gap_s * self._rate)))
        self._samples_in += frame.samples
        frame.pts = None  # the clock has it; where it does not continue the last one, the queue would refuse the frame
        self._fifo.write(frame)
        while self._fifo.samples >= self._block_frames:
            yield from self._insert_silences(self._to_planes(self._fifo.read(self._block_frames)))

    def finish(self) -> Iterator[tuple[Planes, int]]:
        """Yield the samples that are left."""
        if self._fifo.samples:
            yield from self._insert_silences(self._to_planes(self._fifo.read()))

    def _to_planes(self, frame: Any) -> Planes:
        (converted,) = self._resampler.resample(frame)
        planes: Planes = converted.to_ndarray().reshape(-1, self._channels)
        return planes if self._scaler is None else self._scaler.scale(planes)

    def _insert_silences(self, planes: Planes) -> Iterator[tuple[Planes, int]]:
        """Yield converted samples, and each silence at its place among them, in pieces of at most one block."""
        while self._silences and self._silences[0][0] < self._samples_out + len(planes):
            position, count = self._silences.popleft()
            before, planes = np.split(planes, [position - self._samples_out])
            self._samples_out = position
            yield before, self._rate
            channels = self._channels if self._splits or count <= self._block_frames else 1
            block_frames = count_block_frames(self._rate, channels)
            for start in range(0, count, block_frames):
                yield np.zeros((min(block_frames, count - start), channels), np.float32), self._rate
        self._samples_out += len(planes)
        yield planes, self._rate


def _signature_of(frame: Any) -> tuple[str, int, str]:
    return frame.format.name, frame.sample_rate, frame.layout.name


def _merge_blocks(blocks: Iterator[tuple[Planes, int]]) -> Iterator[tuple[Planes, int]]:
    """Merge small blocks, and yield each with its sample rate in Hz."""
    batch: list[Planes] = []
    batch_rate = count = 0
    for planes, rate in blocks:
        if batch and (rate != batch_rate or planes.shape[1] != batch[0].shape[1]):
            yield _join(batch), batch_rate
            batch, count = [], 0
        batch.append(planes)
        batch_rate = rate
        count += len(planes)
        if count >= count_block_frames(rate, planes.shape[1]):
            yield _join(batch), rate
            batch, count = [], 0
    if batch:
        yield _join(batch), batch_rate


def _join(batch: list[Planes]) -> Planes:
    return batch[0] if len(batch) == 1 else np.concatenate(batch)
