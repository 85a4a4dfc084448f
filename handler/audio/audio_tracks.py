"""Choose one of the audio tracks of a media file.

Knows no demuxer: the tracks and their packets come from PyAV.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from handler.audio.frames import FrameConverter
from handler.audio.media_report import Planes
from handler.audio.sample_format import FloatScaler, check_sample_format
from handler.errors import InvalidRequest, NoAudioStream, UnsupportedMedia

_LISTEN_S = 60.0  # seconds at the start of a file in which a track must sound to be preferred
_SILENT = 3e-4  # peak of a track that was recorded without a microphone, with the noise of its codec


def check_track_number(track: int | None, count: int) -> None:
    """Raise InvalidRequest if a file has no track of a number that was asked for; None asks for none."""
    if track is not None and not 0 <= track < count:
        tracks = "1 audio track" if count == 1 else f"{count} audio tracks"
        raise InvalidRequest(
            f"audio_track must be 0 for the first audio track, and so on; the file has {tracks}, got {track}",
            "audio_track",
        )


def describe_choice(track: int, count: int) -> str:
    """Return a warning that a file has other audio tracks than the one that was chosen for it."""
    return f"the file has {count} audio tracks: track {track} was transcribed; audio_track chooses another, from 0 on"


def rank_tracks(container: Any) -> list[int]:
    """Return the numbers of the audio tracks that can be decoded, in the order in which a player would choose them.

    Tracks that are flagged as default come first, and those for the hearing or visually impaired last. Raises
    NoAudioStream if there is no audio track, and UnsupportedMedia if none can be decoded.
    """
    from av.stream import Disposition

    tracks = container.streams.audio
    if not tracks:
        raise NoAudioStream("expected a file with audio; it has other streams only")
    numbers = [number for number, track in enumerate(tracks) if track.codec_context]
    if not numbers:
        raise UnsupportedMedia("expected an audio codec that FFmpeg decodes; it does not know that of the file")
    impaired = Disposition.hearing_impaired | Disposition.visual_impaired

    def rank(number: int) -> int:
        disposition = tracks[number].disposition
        return bool(disposition & impaired) - bool(disposition & Disposition.default)

    return sorted(numbers, key=rank)


def find_sounding_track(packets: Iterable[Any], tracks: list[Any]) -> int:
    """Return the index of the first of some tracks that is not silent at the start of the file.

    Return 0 if all are silent. `packets` are those of all streams; they are read until the first track sounds, for a
    minute of audio at most. Raises UnsupportedMedia.
    """
    listeners = {track.index: _Listener() for track in tracks}
    first = listeners[tracks[0].index]
    for packet in packets:
        listener = listeners.get(packet.stream.index)
        if listener is not None:
            listener.listen(packet)
            if first.is_sounding or listener.seconds > _LISTEN_S:
                break
    for listener in listeners.values():
        listener.finish()
    return next((index for index, track in enumerate(tracks) if listeners[track.index].is_sounding), 0)


class _Listener:
    """Listens to one track, of which it has heard `seconds`."""

    def __init__(self) -> None:
        self.is_sounding = False
        self.seconds = 0.0
        self._converter: FrameConverter | None = None

    def listen(self, packet: Any) -> None:
        """Decode a packet of the track. Raises UnsupportedMedia."""
        import av.error

        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError:
            return  # what is damaged is found again, and reported, when the track is read
        for frame in frames:
            check_sample_format(frame.sample_rate, frame.layout.nb_channels)
            self.seconds += frame.samples / frame.sample_rate
            if self._converter is None or not self._converter.takes(frame):
                self.finish()
                self._converter = FrameConverter(frame, FloatScaler())
            self._judge(self._converter.convert(frame))

    def finish(self) -> None:
        """Judge the samples that do not fill a block."""
        if self._converter is not None:
            self._judge(self._converter.finish())
            self._converter = None

    def _judge(self, blocks: Iterable[tuple[Planes, int]]) -> None:
        peaks = [float(np.abs(planes).max(initial=0.0)) for planes, _ in blocks]
        self.is_sounding = self.is_sounding or max(peaks, default=0.0) > _SILENT
