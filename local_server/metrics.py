"""Figures for Prometheus: requests as the doors see them, the engine as it is now. Knows no route.

Names follow prometheus.io/docs/practices/naming.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handler import __version__
from local_server.state import ServerState

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)  # seconds
READY = 200  # the status of /hc
_SUMS = {
    "audio_s": ("asr_audio_seconds", "Seconds of audio transcribed."),
    "device_s": ("asr_device_seconds", "Seconds of the device that finished requests took."),
    "speech_s": ("asr_speech_seconds", "Seconds of speech heard in it."),
    "covered_s": ("asr_speech_covered_seconds", "Seconds of that speech that words cover."),
    "gaps": ("asr_coverage_gaps", "Stretches of speech without text."),
    "windows": ("asr_windows", "Windows decoded, each time that one is."),
    "tokens": ("asr_tokens", "Tokens decoded."),
    "fallbacks": ("asr_fallbacks", "Windows decoded again at a higher temperature."),
}


class Metrics:
    """All figures of one server."""

    def __init__(self, house: ServerState) -> None:
        self._registry = CollectorRegistry()
        labels = ("door", "code", "kind")
        self._requests = Counter("asr_requests", "Requests by route, code and kind of source.", labels, registry=self._registry)
        self._seconds = Histogram("asr_request_seconds", "Seconds of an answer.", ("door",), buckets=BUCKETS, registry=self._registry)
        ProcessCollector(registry=self._registry)
        self._registry.register(_House(house))

    def count(self, door: str, code: str, kind: str, seconds: float) -> None:
        """Take in an answered request."""
        self._requests.labels(door, code, kind).inc()
        self._seconds.labels(door).observe(seconds)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class _House(Collector):
    """The pipeline as it is when somebody asks."""

    def __init__(self, house: ServerState) -> None:
        self._house = house

    def collect(self) -> Iterator[Metric]:
        pipeline = self._house.pipeline
        yield GaugeMetricFamily("asr_ready", "1 once requests are taken.", value=float(self._house.health()[0] == READY))
        if pipeline is None:
            return
        info = GaugeMetricFamily("asr_info", "What runs here.", labels=("model", "device", "version"))
        info.add_metric([pipeline.engine.model_id, pipeline.engine.device_name, __version__], 1)
        yield info
        load = pipeline.load()
        yield GaugeMetricFamily("asr_requests_in_work", "Requests being transcribed.", value=load.requests)
        yield GaugeMetricFamily("asr_requests_open", "Requests that arrive or are transcribed, of MAX_REQUESTS.", value=load.places)
        yield GaugeMetricFamily("asr_windows_waiting", "Windows that wait for the device.", value=load.waiting)
        yield GaugeMetricFamily("asr_rows", "Rows of the batch.", value=load.rows)
        yield GaugeMetricFamily("asr_rows_busy", "Rows of the batch that are in use.", value=load.busy)
        yield GaugeMetricFamily("asr_cold_start_seconds", "Seconds from the process's start until it was ready.", value=load.ready_s)
        for name, (family, about) in _SUMS.items():
            yield CounterMetricFamily(family, about, value=load.sums.get(name, 0.0))
