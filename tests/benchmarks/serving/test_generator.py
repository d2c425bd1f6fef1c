"""The generator's arithmetic on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.arrivals import Schedule, poisson_schedule
from benchmarks.serving.driver import Clock, Terms, drive_closed, drive_open
from benchmarks.serving.outcomes import (
    GAVE_UP,
    LAG_EDGES_MS,
    Outcomes,
    lag_histogram,
    percentiles,
    summarise,
)

TERMS = Terms([b'"label":"a"'] * 10, 5.0)
MakeServer = Callable[..., Any]


def stall_at(every: int, seconds: float, usual: float = 0.001) -> Callable[[int], float]:
    return lambda number: seconds if number % every == 0 else usual


def regular(rate: float, count: int) -> Schedule:
    return Schedule(np.arange(count) / rate, np.zeros(count, dtype=np.int64), count / rate)


def outcomes_of(latencies: list[float], statuses: list[int] | None = None, lag: float = 0.0) -> Outcomes:
    intended = np.arange(len(latencies)) / 100
    return Outcomes(
        intended,
        intended + lag,
        intended + np.array(latencies),
        np.array(statuses or [200] * len(latencies), dtype=np.int64),
        np.ones(len(latencies), dtype=np.bool_),
    )


class TestArrivals:
    """When requests are due."""

    def test_gaps_are_exponential_with_the_wanted_mean(self) -> None:
        """Regular or half-as-many arrivals would find rates that no real traffic could be served at."""
        gaps = np.diff(poisson_schedule(1000.0, 20.0, 5, seed=3).intended)
        assert np.mean(gaps) == pytest.approx(1e-3, rel=0.03)
        assert np.std(gaps) == pytest.approx(1e-3, rel=0.03)
        assert np.quantile(gaps, 0.5) == pytest.approx(np.log(2) * 1e-3, rel=0.05)

    def test_the_window_is_filled_and_not_exceeded(self) -> None:
        """A schedule that ends early offers less than it says."""
        for seed in range(20):
            schedule = poisson_schedule(50.0, 4.0, 3, seed)
            assert schedule.intended[-1] < 4.0
            assert schedule.intended[-1] > 3.5
            assert len(schedule.texts) == len(schedule.intended)

    def test_every_server_gets_the_same_requests_at_any_rate(self) -> None:
        """Other texts for a faster server would compare lengths, not servers."""
        slow, fast = poisson_schedule(50.0, 4.0, 7, seed=9), poisson_schedule(100.0, 4.0, 7, seed=9)
        shared = min(len(slow.texts), len(fast.texts))
        assert (slow.texts[:shared] == fast.texts[:shared]).all()
        assert slow.intended[:shared] == pytest.approx(2 * fast.intended[:shared])
        assert set(fast.texts.tolist()) == set(range(7))

    @pytest.mark.parametrize(("rate", "seconds", "texts"), [(0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0)])
    def test_impossible_plans_are_refused(self, rate: float, seconds: float, texts: int) -> None:
        """A rate of zero would wait for ever."""
        with pytest.raises(ValueError, match="above 0"):
            poisson_schedule(rate, seconds, texts, 0)


class TestOpenLoop:
    """Sending and counting."""

    def test_requests_are_sent_when_due_though_the_server_stands_still(
        self, clock: Clock, make_server: MakeServer
    ) -> None:
        """The heart of an open loop: waiting for answers before sending hides what users suffer."""
        server = make_server(stall_at(10, 0.5))
        drive_open(regular(100.0, 50), server, clock, TERMS)
        assert [when - 100.0 for when, _ in server.sent] == pytest.approx(np.arange(50) / 100, abs=1e-6)

    def test_latency_counts_from_the_intended_time(self, clock: Clock, make_server: MakeServer) -> None:
        """A slow generator must not make the server look fast: its own delay is part of the latency, and named."""
        server = make_server(lambda number: 0.0, send_seconds=0.02)
        outcomes = drive_open(regular(100.0, 10), server, clock, TERMS)
        assert outcomes.intended == pytest.approx(np.arange(10) / 100)
        assert outcomes.dispatched[-1] - outcomes.intended[-1] == pytest.approx(9 * 0.01)
        assert (outcomes.finished - outcomes.intended)[-1] >= 9 * 0.01
        summary = summarise(outcomes, seconds=0.1, limit_seconds=0.05)
        assert summary.latency.maximum is not None
        assert summary.latency.maximum >= 90
        assert not summary.is_valid

    def test_a_stall_shows_in_the_tail_of_the_open_loop_and_not_in_the_closed_one(
        self, clock: Clock, make_server: MakeServer
    ) -> None:
        """The self-test's claim, exactly: 200 ms every 500th request, 200 requests a second."""
        opened = drive_open(regular(200.0, 5000), make_server(stall_at(500, 0.2)), clock, TERMS)
        closed = drive_closed([0] * 5000, make_server(stall_at(500, 0.2)), clock, TERMS, connections=1)
        honest = summarise(opened, seconds=25.0, limit_seconds=0.05)
        flattering = summarise(closed, seconds=25.0, limit_seconds=0.05)
        assert honest.latency.p999 is not None
        assert flattering.latency.p99 is not None
        assert honest.latency.p999 == pytest.approx(200, abs=6)
        assert honest.latency.maximum == pytest.approx(200, abs=1)
        assert flattering.latency.p99 == pytest.approx(1, abs=0.1)
        # The k-th request after a stall waits 200 - 4k ms: 38 of them longer than 50 ms; none follows the last stall.
        assert 1 - honest.share_within == pytest.approx((9 * 38 + 1) / 5000)
        assert 1 - flattering.share_within == pytest.approx(10 / 5000)
        assert not honest.holds
        assert flattering.holds

    def test_what_is_not_answered_in_time_is_given_up_and_counted(self, clock: Clock, make_server: MakeServer) -> None:
        """A request that is never answered must neither vanish from the count nor hang the generator."""
        server = make_server(lambda number: 1000.0 if number == 3 else 0.001)
        outcomes = drive_open(regular(10.0, 5), server, clock, Terms(TERMS.expected, 1.0))
        assert outcomes.statuses.tolist() == [200, 200, GAVE_UP, GAVE_UP, GAVE_UP]
        assert server.cancelled == [2, 3, 4]
        assert outcomes.finished[2] == pytest.approx(outcomes.intended[2] + 1.0)
        summary = summarise(outcomes, seconds=0.5, limit_seconds=0.05)
        assert (summary.sent, summary.ok, summary.expired) == (5, 2, 3)

    def test_a_wrong_label_is_noticed(self, clock: Clock, make_server: MakeServer) -> None:
        """A server that mixes up answers would otherwise win by being wrong."""
        server = make_server(lambda number: 0.001)
        outcomes = drive_open(regular(10.0, 4), server, clock, Terms([b'"label":"b"'], 1.0))
        assert summarise(outcomes, seconds=0.4, limit_seconds=0.05).other_label == 4

    def test_a_closed_loop_keeps_its_number_of_requests_under_way(self, clock: Clock, make_server: MakeServer) -> None:
        """The estimate of what a server can do rests on it."""
        server = make_server(lambda number: 0.01)
        outcomes = drive_closed([0] * 20, server, clock, TERMS, connections=4)
        assert (outcomes.finished - outcomes.intended)[4:] == pytest.approx(0.04)
        assert len(outcomes.intended) == 20


class TestOutcomes:
    """What is said about a measurement."""

    def test_percentiles_are_nearest_ranks_of_real_samples(self) -> None:
        """Interpolation invents latencies between a fast and a stalled answer."""
        found = percentiles(np.arange(1, 1001) / 1e3)
        assert (found.p50, found.p90, found.p99, found.maximum) == pytest.approx((500, 900, 990, 1000))
        assert found.samples == 1000

    @pytest.mark.parametrize(("samples", "is_named"), [(499, False), (500, True)])
    def test_a_percentile_needs_five_samples_beyond_it(self, samples: int, is_named: bool) -> None:
        """A p99 of a hundred requests is the second worst of them, and says nothing."""
        assert (percentiles(np.ones(samples)).p99 is not None) == is_named
        assert percentiles(np.ones(samples)).p999 is None

    def test_nothing_has_no_percentiles(self) -> None:
        """A server that refuses everything must not get a p99 of zero."""
        found = percentiles(np.array([]))
        assert (found.samples, found.p50, found.maximum) == (0, None, None)

    def test_refusals_expiries_and_failures_are_told_apart_and_none_is_within(self) -> None:
        """Refusing quickly is no good latency."""
        statuses = [200, 200, 429, 503, 504, GAVE_UP, 500, 0]
        summary = summarise(outcomes_of([0.01, 0.2, *[0.001] * 6], statuses), seconds=0.08, limit_seconds=0.05)
        assert (summary.sent, summary.ok, summary.refused, summary.expired, summary.failed) == (8, 2, 2, 2, 2)
        assert summary.within == 1
        assert summary.goodput == pytest.approx(1 / 0.08)
        assert summary.latency.maximum == pytest.approx(200)

    def test_a_rate_is_held_up_to_one_percent_of_misses(self) -> None:
        """p99 <= limit over everything sent: 1 of 100 may miss, 2 may not, and refusals count."""
        fine = summarise(outcomes_of([0.01] * 99 + [0.2]), seconds=1.0, limit_seconds=0.05)
        late = summarise(outcomes_of([0.01] * 98 + [0.2] * 2), seconds=1.0, limit_seconds=0.05)
        refused = summarise(outcomes_of([0.01] * 100, [200] * 98 + [429] * 2), seconds=1.0, limit_seconds=0.05)
        assert (fine.holds, late.holds, refused.holds) == (True, False, False)

    def test_the_warm_up_is_sent_but_not_counted(self) -> None:
        """First requests are slow everywhere and say nothing about serving; goodput must not count them either."""
        summary = summarise(outcomes_of([9.0] * 50 + [0.01] * 50), seconds=1.0, limit_seconds=0.05, warmup_seconds=0.5)
        assert (summary.sent, summary.within) == (50, 50)
        assert summary.goodput == pytest.approx(100)
        with pytest.raises(ValueError, match="measure longer"):
            summarise(outcomes_of([0.1]), seconds=0.01, limit_seconds=0.05, warmup_seconds=0.5)

    @pytest.mark.parametrize(("lag", "is_valid"), [(0.004, True), (0.006, False)])
    def test_a_late_generator_makes_the_result_invalid(self, lag: float, is_valid: bool) -> None:
        """Otherwise the generator's own trouble is booked on the server."""
        summary = summarise(outcomes_of([0.01] * 600, lag=lag), seconds=6.0, limit_seconds=0.05)
        assert summary.is_valid == is_valid
        assert summary.lag.p99 == pytest.approx(lag * 1e3)
        assert summary.latency.p99 == pytest.approx(10)  # from the intended time, the lag included

    def test_lags_are_counted_between_their_edges(self) -> None:
        """A count in the wrong bin would hide how late the generator was."""
        lags = np.array([0.0, *LAG_EDGES_MS, LAG_EDGES_MS[-1] + 1]) / 1e3
        counts = lag_histogram(lags)
        assert sum(counts) == len(lags)
        assert counts == [2] + [1] * (len(LAG_EDGES_MS) - 1) + [1]
