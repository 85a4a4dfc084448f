"""Tell who says what in a live session, window by window. Knows no network.

All sessions share the one thread that hears windows, which does not wait for what is heard of files.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from handler.schema.options import Options
from handler.schema.speakers import OnlineDiarizer, SpeakerActivity, SpeakerCount
from handler.schema.transcript import Segment
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.diarization import speaker_count, submit
from handler.transcription.shared_resources import SharedResources
from handler.transcription.speaker_names import name_speakers

Heard = Any  # what the diarizer tells of a window


class LiveSpeakers:
    """The speakers of one session. They keep their names."""

    def __init__(self, resources: SharedResources, diarizer: OnlineDiarizer, count: SpeakerCount) -> None:
        assert resources.live_speaker_threads is not None
        self._threads = resources.live_speaker_threads
        self._diarizer = diarizer
        self._count = count

    @classmethod
    def of(cls, resources: SharedResources, options: Options) -> "LiveSpeakers | None":
        """Return the speakers of a session, or None if they are not to be told apart."""
        model = resources.speaker_model
        if not options.diarize or model is None or (diarizer := model.new_online_diarizer()) is None:
            return None
        return cls(resources, diarizer, speaker_count(options, model))

    async def hear(self, window: Window) -> Heard:
        """Hear a window, which may turn out to go on. Raises what goes wrong, and Cancelled if the process ends."""
        return await asyncio.wrap_future(submit(self._threads, self._hear, window))

    async def name(self, window: Window, heard: Heard, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments of a window that is complete, in parts if the speaker changes in one."""
        activity = await asyncio.wrap_future(submit(self._threads, self._add, heard))
        return name_speakers(segments, [activity.starting_at(window.start / SAMPLE_RATE)])

    def _hear(self, window: Window) -> Heard:
        from handler.engine.device_errors import device_errors

        with device_errors():
            return self._diarizer.hear(window.samples)

    def _add(self, heard: Heard) -> SpeakerActivity:
        from handler.engine.device_errors import device_errors

        with device_errors():
            return self._diarizer.add(heard, self._count)
