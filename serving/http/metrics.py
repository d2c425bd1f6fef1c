"""What a Prometheus server scrapes: a registry of our own, and an engine that is asked when the scrape comes."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.bundle import Bundle
from serving.engine.contract import Answered, Engine, NotReady

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Seconds: fine around the answers of a compact model, coarse where only the deadline matters."""
CLIENT_GONE = 499
"""The status that counts requests whose client left; it is never sent."""


class Metrics:
    """Counters of the HTTP side, touched once per request, and a view of the engine."""

    def __init__(self, engine: Engine) -> None:
        """Begin at zero."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "compressor_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "compressor_request_seconds",
            "From a request's head to its answer, of answered requests.",
            ["route"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._refused = Counter(
            "compressor_refused", "Requests without an answer, by the error's code.", ["reason"], registry=registry
        )
        self._expired = Counter("compressor_expired", "Requests whose deadline passed (504).", registry=registry)
        self._texts = Counter("compressor_texts", "Texts answered.", registry=registry)
        self._tokens = Counter("compressor_tokens", "Tokens that the model read for answers.", registry=registry)
        self._truncated = Counter(
            "compressor_truncated_texts", "Texts that were cut to the model's max_length.", registry=registry
        )
        self._queued = Histogram(
            "compressor_queue_seconds", "From admission to the first text's run.", buckets=BUCKETS, registry=registry
        )
        self._bound: dict[tuple[str, int], Counter] = {}
        self._bound_seconds: dict[str, Histogram] = {}
        registry.register(EngineCollector(engine))
        ProcessCollector(registry=registry)

    def answered(self, answered: Answered, tokens: int) -> None:
        """Count the texts of one answer; `tokens` is their sum."""
        self._texts.inc(len(answered.tokens))
        self._tokens.inc(tokens)
        self._queued.observe(max(0.0, answered.queue_seconds))
        if True in answered.truncated:
            self._truncated.inc(sum(answered.truncated))

    def finished(self, route: str, status: int, seconds: float, code: str | None) -> None:
        """Count one request.

        Args:
            route: its template, never its path: clients must not make series.
            status: what it was answered with.
            seconds: since its head was read.
            code: the error's code; None for an answer.
        """
        counter = self._bound.get((route, status))
        if counter is None:
            counter = self._bound[route, status] = self._requests.labels(route, str(status))
        counter.inc()
        if code is None:
            histogram = self._bound_seconds.get(route)
            if histogram is None:
                histogram = self._bound_seconds[route] = self._seconds.labels(route)
            histogram.observe(seconds)
            return
        self._refused.labels(code).inc()
        if code == "deadline_expired":
            self._expired.inc()

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)


class EngineCollector(Collector):
    """The engine's load at the moment of the scrape."""

    def __init__(self, engine: Engine) -> None:
        """Ask nothing yet."""
        self._engine = engine

    def describe(self) -> list[Metric]:
        """Nothing in advance, so that registering asks the engine nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One sample of each figure of `Load`, the state, and what is served."""
        load = self._engine.load()
        state = self._engine.state
        gauges = {
            "compressor_ready": ("1 when new work is taken.", state == "ready"),
            "compressor_queue_tokens": ("Tokens that wait for a lane.", load.queued_tokens),
            "compressor_queue_texts": ("Texts that wait for a lane.", load.queued_texts),
            "compressor_open_requests": ("Admitted requests without an answer.", load.requests),
            "compressor_running_texts": ("Texts inside a lane.", load.running),
            "compressor_predicted_wait_seconds": ("How long new work would wait.", load.predicted_wait_seconds),
            "compressor_lanes": ("Lanes that should work.", load.lanes),
            "compressor_lanes_alive": ("Lanes that do.", load.lanes_alive),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, float(value))
        events = CounterMetricFamily("compressor_engine_events", "Events of the engine by name.", labels=["event"])
        for event, number in load.counters.items():
            events.add_metric([event], number)
        yield events
        yield CounterMetricFamily(
            "compressor_swaps", "Bundles that took over without a restart.", load.counters.get("swaps", 0)
        )
        yield from _bundle_info(self._engine)


def _bundle_info(engine: Engine) -> Iterator[Metric]:
    try:
        bundle: Bundle = engine.bundle
    except NotReady:
        return
    info = InfoMetricFamily("compressor_bundle", "The bundle that new work goes to.")
    labels = {
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "precision": bundle.artifact.precision,
        "sha256": bundle.artifact.sha256,
    }
    info.add_metric([], labels)
    yield info
