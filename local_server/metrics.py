"""Provide metrics for Prometheus: requests by route, and the state of the pipeline. Knows no route.

A metric of HTTP requests, with labels, is observed in `Metrics.count`, which `middleware/access.py` calls with what a
router has stored in the request's scope. A sum over finished requests is added in `TranscriptBuilder._count`, one over
windows in `EngineClient.submit`, and both are named in `_COUNTERS`. A state of the pipeline is named in `_GAUGES`. The
names follow prometheus.io/docs/practices/naming.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from handler import __version__
from handler.live.latency import LatencyHistogram
from handler.transcription.pipeline import PipelineStats
from local_server.state import ServerState

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)  # seconds
READY = 200  # the status of /hc once requests are accepted

# Name of the metric: its description, and a function that reads its value from the pipeline's stats.
_GAUGES: dict[str, tuple[str, Callable[[PipelineStats], float]]] = {
    "asr_requests_in_work": ("Requests being transcribed.", lambda stats: stats.requests),
    "asr_requests_open": (
        "Requests being received or transcribed, of at most four times MAX_REQUESTS.",
        lambda stats: stats.admitted_requests,
    ),
    "asr_windows_waiting": ("Windows that wait for the device.", lambda stats: stats.waiting_windows),
    "asr_rows": ("Rows of the batch.", lambda stats: stats.max_batch_size),
    "asr_rows_busy": ("Rows of the batch that are in use.", lambda stats: stats.active_sequences),
    "asr_downloads_abandoned": (
        "Threads that outlive their download, of at most MAX_REQUESTS; further downloads are refused.",
        lambda stats: stats.abandoned_downloads,
    ),
    "asr_cold_start_seconds": (
        "Seconds from the process's start until it was ready.",
        lambda stats: stats.ready_s,
    ),
}
# Counter of the pipeline: name and description of the metric that reports it.
_COUNTERS = {
    "audio_s": ("asr_audio_seconds", "Seconds of audio transcribed."),
    "device_s": ("asr_device_seconds", "Seconds of the device that finished requests used."),
    "speech_s": ("asr_speech_seconds", "Seconds of speech detected in that audio."),
    "covered_s": ("asr_speech_covered_seconds", "Seconds of that speech that words cover."),
    "gaps": ("asr_coverage_gaps", "Stretches of speech without text."),
    "redacted": ("asr_redacted", "Stretches of text that were replaced by placeholders, such as card numbers."),
    "windows": ("asr_windows", "Windows decoded; one that is decoded again counts again."),
    "tokens": ("asr_tokens", "Tokens of the texts of these windows."),
    "not_finite": (
        "asr_results_not_finite",
        "Results of windows with numbers that are not finite, which a faulty device computes.",
    ),
    "fallbacks": ("asr_fallbacks", "Windows decoded again at a higher temperature."),
    "live_words": ("asr_live_words", "Words told in live sessions."),
    "live_words_contradicted": (
        "asr_live_words_contradicted",
        "Words told in live sessions before their turn was over that turned out otherwise.",
    ),
}
_WORD_SECONDS = "Seconds from the arrival of the end of a word to the event that tells it."
_TURN_SECONDS = "Seconds from the arrival of the last speech of a turn to its complete text."


class Metrics:
    """All metrics of one server."""

    def __init__(self, state: ServerState) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "asr_requests",
            "Requests by route, code and kind of source.",
            ("door", "code", "kind"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "asr_request_seconds",
            "Seconds from a request to the end of its response.",
            ("door",),
            buckets=BUCKETS,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_PipelineCollector(state))

    def count(self, route: str, code: str, kind: str, seconds: float | None) -> None:
        """Count a request whose response was completed after `seconds`, or a live session if that is None.

        `code` is `ok` or the code of the error. `kind` is how the audio was sent: `url`, `file` or `none`.
        """
        self._requests.labels(route, code, kind).inc()
        if seconds is not None:
            self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _PipelineCollector(Collector):
    """Reads the state of the pipeline whenever Prometheus scrapes."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        pipeline = self._state.pipeline
        status, _ = self._state.health()
        yield GaugeMetricFamily("asr_ready", "1 once requests are accepted.", value=float(status == READY))
        if pipeline is None:
            return
        if self._state.jobs is not None:
            yield GaugeMetricFamily("asr_jobs_open", "Jobs that wait or run.", value=self._state.jobs.num_open)
        if (sessions := self._state.sessions) is not None:
            yield GaugeMetricFamily("asr_live_sessions", "Live sessions, cut ones included.", value=sessions.num_open)
            yield _histogram("asr_live_word_seconds", _WORD_SECONDS, sessions.latency.word)
            yield _histogram("asr_live_turn_seconds", _TURN_SECONDS, sessions.latency.turn)
        info = GaugeMetricFamily("asr_info", "The model, device and version.", labels=("model", "device", "version"))
        info.add_metric([pipeline.model_id, pipeline.device_name, __version__], 1)
        yield info
        stats = pipeline.stats()
        for name, (description, value_of) in _GAUGES.items():
            yield GaugeMetricFamily(name, description, value=value_of(stats))
        seconds = CounterMetricFamily(
            "asr_decoding_seconds",
            "Seconds that the device has worked, by the temperature of the windows, rounded up to a fifth.",
            labels=("temperature",),
        )
        for temperature, value in sorted(stats.device_s_by_temperature.items()):
            seconds.add_metric([f"{temperature:g}"], value)
        yield seconds
        for counter, (name, description) in _COUNTERS.items():
            yield CounterMetricFamily(name, description, value=stats.counters.get(counter, 0.0))


def _histogram(name: str, description: str, histogram: LatencyHistogram) -> Metric:
    buckets, total_s = histogram.cumulative()
    family = HistogramMetricFamily(name, description)
    family.add_metric([], buckets, total_s)
    return family
