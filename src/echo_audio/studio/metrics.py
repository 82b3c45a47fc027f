"""What Prometheus may read: counts and times, nothing of what was asked or answered."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from echo_audio.transcript import Transcript, What

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metrics:
    """The metrics of one server.

    Args:
        running, waiting: how many reasonings are in the batch, and wait for it.
        kept_bytes: memory of kept recordings.
    """

    def __init__(self, running: Callable[[], float], waiting: Callable[[], float], kept_bytes: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("echo_requests", "Requests answered", ("route", "status"), registry=registry)
        self.request_s = Histogram("echo_request_seconds", "From a request to its last byte", ("route",), buckets=_SECONDS,
                                   registry=registry)  # fmt: skip
        self.listens = Counter("echo_listens", "Reasonings", ("mode", "played", "stop"), registry=registry)
        self.gone = Counter("echo_listens_abandoned", "Reasonings whose client went away", registry=registry)
        self.segments = Counter("echo_segments", "Written segments, by what came of them", ("outcome",), registry=registry)
        self.tokens = Counter("echo_sampled_tokens", "Tokens that were sampled", registry=registry)
        self.heard_s = Counter("echo_relistened_seconds", "Seconds of audio heard again", registry=registry)
        self.audio_s = Counter("echo_audio_seconds", "Seconds of audio asked about", registry=registry)
        self.first_s = Histogram("echo_first_text_seconds", "From a place in the batch to the first text", buckets=_SECONDS,
                                 registry=registry)  # fmt: skip
        self.wait_s = Histogram("echo_wait_seconds", "Waiting for a place", buckets=_SECONDS, registry=registry)
        self.listen_s = Histogram("echo_listen_seconds", "From a place to the answer", buckets=_SECONDS, registry=registry)
        gauges = {
            "echo_running": ("Reasonings in the batch", running),
            "echo_waiting": ("Reasonings that wait for a place", waiting),
            "echo_kept_audio_bytes": ("Memory of uploaded recordings", kept_bytes),
        }
        for name, (about, value) in gauges.items():
            Gauge(name, about, registry=registry).set_function(value)

    def count(self, transcript: Transcript, took_s: float) -> None:
        """A reasoning that came to its end."""
        self.listens.labels(transcript.mode.value, transcript.played.value, str(transcript.stop and transcript.stop.value)).inc()
        self.listen_s.observe(took_s)
        self.tokens.inc(transcript.n_sampled)
        self.heard_s.inc(transcript.heard_s)
        self.audio_s.inc(transcript.question.duration_s)
        self.segments.labels("heard").inc(len(transcript.asked))
        for note in transcript.notes:
            if note.what not in (What.CLAMPED, What.OVERSHOT, What.FORCED_ANSWER, What.ENGINE_FAILED):
                self.segments.labels(note.what.value).inc()

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
