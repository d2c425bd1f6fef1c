"""What a Prometheus server scrapes: a registry of our own, and an engine that is asked when the scrape comes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from serving.bundle import Bundle
from serving.engine.contract import Answered, Engine, NotReady

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Seconds: fine around the answers of a compact model, coarse where only the deadline matters."""
CLIENT_GONE = 499
"""The status that counts requests whose client left; it is never sent."""


class Spread:
    """Durations counted by bucket: what a histogram metric shows, for one thread."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound -> durations up to it, as Prometheus wants them."""
        bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class Metrics(Collector):
    """Plain counters of the HTTP side, touched on the event loop's thread only, and a view of the engine.

    The library's own counters take a lock for each event; here it only writes the page.

    Attributes:
        fast_requests: that took the fast path; counted there.
    """

    def __init__(self, engine: Engine) -> None:
        """Begin at zero."""
        self._requests: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, Spread] = {}
        self._refused: dict[str, int] = {}
        self._queued = Spread()
        self.fast_requests = 0
        self._texts = self._tokens = self._truncated = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(EngineCollector(engine))
        ProcessCollector(registry=self._registry)

    def answered(self, answered: Answered, tokens: int) -> None:
        """Count the texts of one answer; `tokens` is their sum."""
        self._texts += len(answered.tokens)
        self._tokens += tokens
        self._queued.add(max(0.0, answered.queue_seconds))
        if True in answered.truncated:
            self._truncated += sum(answered.truncated)

    def finished(self, route: str, status: int, seconds: float, code: str | None) -> None:
        """Count one request.

        Args:
            route: its template, never its path: clients must not make series.
            status: what it was answered with.
            seconds: since its head was read.
            code: the error's code; None for an answer.
        """
        key = route, status
        self._requests[key] = self._requests.get(key, 0) + 1
        if code is not None:
            self._refused[code] = self._refused.get(code, 0) + 1
            return
        spread = self._seconds.get(route)
        if spread is None:
            spread = self._seconds[route] = Spread()
        spread.add(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing in advance: the names are clear of the others'."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One family of each figure."""
        requests = CounterMetricFamily(
            "compressor_requests", "Requests by route and status.", labels=["route", "status"]
        )
        for (route, status), number in self._requests.items():
            requests.add_metric([route, str(status)], number)
        seconds = HistogramMetricFamily(
            "compressor_request_seconds", "From a request's head to its answer, of answered requests.", labels=["route"]
        )
        for route, spread in self._seconds.items():
            seconds.add_metric([route], spread.buckets(), spread.seconds)
        refused = CounterMetricFamily(
            "compressor_refused", "Requests without an answer, by the error's code.", labels=["reason"]
        )
        for reason, number in self._refused.items():
            refused.add_metric([reason], number)
        yield from (requests, seconds, refused)
        totals = {
            "compressor_expired": ("Requests whose deadline passed (504).", self._refused.get("deadline_expired", 0)),
            "compressor_fast_requests": ("Requests that took the fast path.", self.fast_requests),
            "compressor_texts": ("Texts answered.", self._texts),
            "compressor_tokens": ("Tokens that the model read for answers.", self._tokens),
            "compressor_truncated_texts": ("Texts that were cut to the model's max_length.", self._truncated),
        }
        for name, (meaning, number) in totals.items():
            yield CounterMetricFamily(name, meaning, number)
        queued = HistogramMetricFamily("compressor_queue_seconds", "From admission to the first text's run.")
        queued.add_metric([], self._queued.buckets(), self._queued.seconds)
        yield queued


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
