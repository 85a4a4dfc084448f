"""Build the transcript of a request from its final text. Decodes nothing, and knows no event loop."""

from collections.abc import Sequence

from handler.errors import DeadlineExceeded
from handler.schema.options import MULTI, Options
from handler.schema.transcript import Coverage, Segment, Transcript, text_of
from handler.schema.window import SAMPLE_RATE
from handler.timeline import Timeline
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.ingest import WindowProducer
from handler.transcription.language_detector import LanguageDetector
from handler.transcription.merge import dominant_language, gap_warnings, measure_coverage
from handler.transcription.reorder_buffer import ReorderBuffer
from handler.transcription.shared_resources import SharedResources
from handler.transcription.speaker_names import Speakers, name_speakers, speakers_of
from handler.transcription.usage_report import build_account
from handler.transcription.word_edits import keep_words


class TranscriptBuilder:
    """Builds the transcript of one request, and counts what the request was."""

    def __init__(self, resources: SharedResources, options: Options, timeline: Timeline) -> None:
        self._resources = resources
        self._options = options
        self._timeline = timeline

    def build(
        self,
        text: ReorderBuffer,
        audio: WindowProducer,
        detector: LanguageDetector,
        speakers: Speakers | None,
        redacted: dict[str, int],
        expired: str | None,
    ) -> Transcript:
        """Return the transcript. This may take a moment, so do not call it in an event loop.

        `expired` says what was expected if the time has run out before the end of the audio. The transcript then ends
        at the time up to which all channels have final text.
        """
        segments, windows, warnings, resume_at = text.segments, text.windows, _warnings_of(text.windows), None
        decoded = text.decoded_segments  # coverage is that of what was said, not of what replaces it
        if expired is not None:
            resume_at = max(self._options.start_at, text.finalized_until_s(audio.channels))
            segments, windows = _until(resume_at, segments, windows)
            decoded, _ = _until(resume_at, decoded, ())
            warnings = [(at, warning) for at, warning in warnings if at < resume_at]
        coverage = measure_coverage(windows, decoded)
        if speakers is not None:
            segments = name_speakers(segments, speakers, self._options.known_speaker_names or ())
        told = [*audio.warnings, *(warning for _, warning in warnings), *gap_warnings(coverage)]
        if expired is not None:
            told.insert(0, f"{DeadlineExceeded.code}: {expired}; what comes behind {resume_at:g} s is missing")
        cold_start = self._resources.cold_start()
        self._count(audio.seconds, coverage, sum(redacted.values()))
        return Transcript(
            text=text_of(segments),
            segments=tuple(segments),
            language=self._language(detector, segments),
            language_probability=detector.probability,
            duration=audio.seconds,
            model=self._resources.engine.model_id,
            options=self._options,
            timing=self._timeline.seconds(),
            cold_start=cold_start,
            coverage=coverage,
            account=self._account(audio.seconds, is_cold=cold_start is not None),
            resume_at=resume_at,
            warnings=tuple(told),
            speakers=() if speakers is None else speakers_of(segments),
            redacted=redacted,
        )

    def _language(self, detector: LanguageDetector, segments: Sequence[Segment]) -> str | None:
        if self._options.language == MULTI or (detector.language is None and segments):
            return dominant_language(segments)
        return detector.language

    def _account(self, audio_s: float, is_cold: bool) -> dict[str, str | float | bool]:
        return build_account(
            audio_s,
            self._timeline.total(),
            self._timeline.seconds()["device"],
            is_cold=is_cold,
            price_per_s=self._resources.settings.gpu_price_per_second,
            model_info=self._resources.model_info,
        )

    def _count(self, audio_s: float, coverage: Coverage, num_redacted: int) -> None:
        """Add the finished request to the process's counters."""
        self._resources.counters.add(
            audio_s=audio_s,
            device_s=self._timeline.seconds()["device"],
            speech_s=coverage.speech_s,
            covered_s=coverage.covered_s,
            gaps=len(coverage.gaps),
            redacted=num_redacted,
        )


def _until(
    end_s: float, segments: Sequence[Segment], windows: Sequence[DecodedWindow]
) -> tuple[list[Segment], list[DecodedWindow]]:
    """Return what begins before `end_s`.

    Some channels are further ahead, but a request that resumes there repeats their text.
    """
    kept = keep_words(segments, lambda word: word.start < end_s)
    return (
        [segment for segment in kept if segment.start < end_s],
        [window for window in windows if window.end / SAMPLE_RATE <= end_s],
    )


def _warnings_of(windows: Sequence[DecodedWindow]) -> list[tuple[float, str]]:
    """Return the doubts about the text of windows with their seconds, in the order of the audio."""
    return sorted(warning for window in windows for warning in window.warnings)
