"""Decode files to blocks of float32 samples at 16 kHz.

The format of a file is recognised by its bytes, not by its name. libsndfile reads WAV and similar formats, and FFmpeg
reads all others. The samples are resampled by soxr. Knows no network and no window.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from handler.audio.audio_tracks import check_track_number
from handler.audio.ffmpeg_reader import FFmpegReader
from handler.audio.libsndfile_reader import SNIFF, read_sound_file
from handler.audio.media_file import MediaFile
from handler.audio.media_report import MAX_CHANNELS, DecodeOptions, MediaReport, Planes
from handler.audio.mixing import ChannelMixer, pad_channels
from handler.errors import NoAudioStream, UnsupportedMedia
from handler.schema.window import SAMPLE_RATE

MIXED = DecodeOptions()


class AudioDecoder:
    """Decodes the audio of one file.

    `report` holds the duration that the file states, and a warning for each defect of the file.
    """

    def __init__(self, file: MediaFile, options: DecodeOptions = MIXED) -> None:
        self._file = file
        self._options = options
        self.report = MediaReport()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the audio in blocks of samples at 16 kHz. [n, channels]

        All blocks have the same number of channels, which is 1 if the channels are mixed. Raises MediaError, and
        InvalidRequest if the file has no track of the number that was asked for.
        """
        resampler: Any = None
        rate = channels = count = 0
        mixer = ChannelMixer()
        for planes, block_rate in self._blocks_at_file_rate():
            channels = channels or self._count_channels(planes)
            samples = pad_channels(planes, channels) if self._options.split else mixer.mix(planes, block_rate)
            if block_rate != rate:
                if resampler is not None:
                    yield _flush(resampler, channels)
                rate = block_rate
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32", quality="HQ")
            count += len(samples)
            block = resampler.resample_chunk(np.ascontiguousarray(samples))
            if len(block):
                yield block
        if resampler is None or not count:
            raise NoAudioStream("expected a file with audio; it holds no samples")
        yield _flush(resampler, channels)

    def _count_channels(self, planes: Planes) -> int:
        channels = planes.shape[1] if self._options.split else 1
        if channels > MAX_CHANNELS:
            raise UnsupportedMedia(f"expected at most {MAX_CHANNELS} channels to split; the file has {channels}")
        return channels

    def _blocks_at_file_rate(self) -> Iterator[tuple[Planes, int]]:
        head = self._file.read(SNIFF)
        self._file.seek(0)
        if not head:
            raise UnsupportedMedia("expected an audio or video file; got no bytes at all")
        blocks = read_sound_file(self._file, head, self._options, self.report)
        if blocks is not None:
            check_track_number(self._options.track, 1)
            return blocks
        self._file.seek(0)
        return FFmpegReader(self._file, head, self._options, self.report).blocks()


def _flush(resampler: Any, channels: int) -> NDArray[np.float32]:
    block: NDArray[np.float32] = resampler.resample_chunk(np.empty((0, channels), np.float32), last=True)
    return block
