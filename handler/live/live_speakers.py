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
from handler.transcription.diarization import run_in, speaker_count
from handler.transcription.shared_resources import SharedResources
from handler.transcription.speaker_names import name_speakers


class LiveSpeakers:
    """The speakers of one session. They keep their names."""

    def __init__(self, resources: SharedResources, diarizer: OnlineDiarizer, count: SpeakerCount) -> None:
        assert resources.live_speaker_threads is not None
        self._threads = resources.live_speaker_threads
        self._diarizer = diarizer
        self._count = count
        self._window: Window | None = None  # that is being heard, or was heard last
        self._hearing: asyncio.Task[Any] | None = None

    @classmethod
    def of(cls, resources: SharedResources, options: Options) -> "LiveSpeakers | None":
        """Return the speakers of a session, or None if they are not to be told apart."""
        model = resources.speaker_model
        if not options.diarize or model is None or (diarizer := model.new_online_diarizer()) is None:
            return None
        return cls(resources, diarizer, speaker_count(options, model))

    def listen(self, window: Window) -> None:
        """Begin to hear a window, which may turn out to go on, instead of the one before."""
        self.cancel()
        self._window = window
        self._hearing = asyncio.create_task(run_in(self._threads, self._hear, window))
        self._hearing.add_done_callback(lambda task: task.cancelled() or task.exception())  # which nobody may wait for

    async def name_speakers(self, window: Window, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments of a window that is complete, in parts if the speaker changes in one.

        Raises what goes wrong, and Cancelled if the process ends.
        """
        if self._hearing is None or self._window is not window:
            self.listen(window)
        assert self._hearing is not None
        activity = await run_in(self._threads, self._add, await self._hearing)
        return name_speakers(segments, [activity.starting_at(window.start / SAMPLE_RATE)])

    def cancel(self) -> None:
        """Hear no more of the window that is being heard."""
        if self._hearing is not None:
            self._hearing.cancel()
        self._hearing = self._window = None

    def _hear(self, window: Window) -> Any:
        from handler.engine.device_errors import device_errors

        with device_errors():
            return self._diarizer.hear(window.samples)

    def _add(self, heard: Any) -> SpeakerActivity:
        from handler.engine.device_errors import device_errors

        with device_errors():
            return self._diarizer.add(heard, self._count)
