"""The threads' side of the engine: lanes take from the scheduler, run, and hand each finished request to its loop."""

from __future__ import annotations

import logging
import threading
import time
from time import perf_counter

from serving.engine.admission import Admission
from serving.engine.contract import COUNTERS, Answered, Expired, LaneFailed, Load, Overloaded
from serving.engine.endings import End, Ending, tell
from serving.engine.lanes import NOT_ENDED, Call, Lane, Outcome, perform, stall_limit, tokenise
from serving.engine.orders import Order
from serving.engine.schedule import Scheduler
from serving.engine.served import FAILURES_BEFORE_PROBE, Served
from serving.engine.tickets import Item, Ticket

WATCH_SECONDS = 1.0
LOSSES_PER_LANE = 2
"""Lanes given up in a row, without an answer between them, after which the engine has failed."""

logger = logging.getLogger(__name__)


class Crew:
    """A scheduler, its lanes, and the watchdog that replaces lanes; one lock guards all of it."""

    def __init__(self, scheduler: Scheduler, queue_tokens: int, stall_seconds: float, end: End) -> None:
        """Start no thread yet.

        Args:
            scheduler: empty; its number of lanes is the crew's.
            queue_tokens: tokens that may wait.
            stall_seconds: after which a call hangs, unless its predicted duration asks for more.
            end: called on an order's event loop with its end.
        """
        self.has_failed = False
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._scheduler = scheduler
        self._admission = Admission(scheduler, queue_tokens)
        self._stall_seconds = stall_seconds
        self._end = end
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._hung: list[Lane] = []
        self._orders: set[Order] = set()
        self._num_lanes_made = self._num_losses = self._num_failures = 0
        self._is_stopping = False
        self._stop = threading.Event()
        watch_seconds = min(WATCH_SECONDS, stall_seconds / 4)
        self._watchdog = threading.Thread(target=self._watch, args=(watch_seconds,), name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the lanes and the watchdog."""
        with self._lock:
            for _ in range(self._scheduler.lanes):
                self._hire()
        self._watchdog.start()

    def stop(self, join_seconds: float = 1.0) -> None:
        """End all threads but those that hang in the model; what is unanswered must have been failed before."""
        self._stop.set()
        with self._lock:
            self._is_stopping = True
            lanes, woken, self._idle = list(self._lanes), self._idle, []
        for lane in woken:
            lane.wake()
        end = time.monotonic() + join_seconds
        for thread in (*(lane.thread for lane in lanes), self._watchdog):
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def submit(self, order: Order) -> list[Lane]:
        """Let an order wait for a lane, or refuse it (see `Admission.check`); returns the idle lanes to wake."""
        with self._lock:
            if self.has_failed:
                raise LaneFailed("the lanes have failed; this process is to be restarted")
            now = time.monotonic()
            try:
                is_idle = self._admission.check(order.ticket, now)
            except (Overloaded, Expired) as refusal:
                self.counters["requests_overloaded" if isinstance(refusal, Overloaded) else "requests_expired"] += 1
                raise
            self._orders.add(order)
            items = order.ticket.items
            if is_idle and len(items) == 1 and self._idle:
                lane = self._idle.pop()
                self._scheduler.start_at_once(items[0], now)
                self._assign(lane, items[0], now)
                return [lane]
            self._scheduler.add(order.ticket)
            num_left = max(len(self._idle) - len(items), 0)
            woken = self._idle[num_left:]
            del self._idle[num_left:]
            return woken

    def drop(self, order: Order, counter: str) -> bool:
        """Forget an order that nobody waits for; False when its answer was already on its way."""
        with self._lock:
            return self._close(order, counter)

    def fail_all(self, error: Exception, counter: str = "requests_failed") -> int:
        """End all unanswered orders with an error; returns how many there were."""
        with self._lock:
            endings: list[Ending] = [(order, error) for order in list(self._orders) if self._close(order, counter)]
        tell(endings, self._end)
        return len(endings)

    def change_over(self, served: Served) -> None:
        """New orders are for another bundle: what was learnt of the old one's durations is forgotten."""
        with self._lock:
            self._scheduler.learn_anew(served.costs)
            self.counters["swaps"] += 1

    def load(self) -> Load:
        """How busy the lanes are."""
        with self._lock:
            scheduler = self._scheduler
            return Load(
                queued_tokens=scheduler.queued_tokens,
                queued_texts=scheduler.queued_texts,
                requests=len(self._orders),
                running=scheduler.running,
                predicted_wait_seconds=scheduler.wait_seconds,
                lanes=scheduler.lanes,
                lanes_alive=sum(lane.thread.is_alive() for lane in self._lanes),
                counters=dict(self.counters),
            )

    def _serve(self, lane: Lane) -> None:
        """What a lane's thread does, until it is told to stop or was given up.

        It sleeps here, where nothing of its last call is left: one that nobody wakes would keep a swapped bundle.
        """
        try:
            while self._turn(lane):
                if lane.is_idle:
                    lane.sleep()
        except BaseException:
            logger.exception("a lane broke; the watchdog replaces it")

    def _turn(self, lane: Lane) -> bool:
        """Hand in the last call, and take and run the next one if there is one; False at the lane's end.

        The event loop is told last: it wakes at once, and should find the interpreter lock free.
        """
        with self._lock:
            if lane.is_given_up:
                return False
            done = lane.call
            endings = [] if done is None else self._look_at(lane, done)
            is_over = self._is_stopping or self.has_failed
            if not (is_over or lane.call):
                endings += self._take(lane)
            call = lane.call
        if endings:
            tell(endings, self._end)
        if is_over:
            if done is not None and done.outcome.is_broken:
                self.fail_all(LaneFailed("the model fails on every text"))
            return False
        if call is not None:
            if call.served.costs.merges and self._scheduler.max_rows > 1:
                self._gather(call)
            self._run(call)
        return True

    def _run(self, call: Call) -> None:
        call.outcome = outcome = perform(call)
        if not outcome.has_answer and self._num_failures + len(call.items) >= FAILURES_BEFORE_PROBE:
            outcome.is_broken = not call.served.still_works()

    def _take(self, lane: Lane) -> list[Ending]:
        """Give a lane its next call, or put it among the idle ones; returns what expired on the way."""
        now = time.monotonic()
        item, expired = self._scheduler.take(now)
        if item is None:
            self._idle.append(lane)
            lane.is_idle = True
        else:
            self._assign(lane, item, now)
        return self._expire(expired) if expired else []

    def _assign(self, lane: Lane, item: Item, now: float) -> None:
        order = item.ticket.owner
        order.started = order.started or now
        lane.call = Call(order.served, order.tasks, [item], now, stall_limit(self._stall_seconds, item.seconds))

    def _look_at(self, lane: Lane, call: Call) -> list[Ending]:
        """Book a call that has come back, or keep one that was given to an idle lane, if it is still worth running."""
        if call.outcome is not NOT_ENDED:
            return self._hand_in(lane, call)
        ticket = call.items[0].ticket
        if not ticket.is_dropped and ticket.deadline > time.monotonic():
            return []
        lane.call = None
        self._scheduler.finish(call.items)
        return self._expire([ticket])

    def _expire(self, tickets: list[Ticket]) -> list[Ending]:
        error = Expired("the deadline could no longer be met")
        orders = [ticket.owner for ticket in tickets]
        return [(order, error) for order in orders if order and self._close(order, "requests_expired")]

    def _gather(self, call: Call) -> None:
        """Let waiting texts join a call, where that saves time; only then are lengths needed beforehand."""
        (first,) = call.items
        with self._lock:
            waiting = self._scheduler.waiting(first)
        if not waiting:
            return
        try:
            exact = [(item, len(tokenise(call.served, item))) for item in (first, *waiting)]
        except BaseException:
            logger.exception("a text could not be tokenised; the call goes on without company")
            return
        with self._lock:
            for item, tokens in exact:
                self._scheduler.set_tokens(item, tokens)
            now = time.monotonic()
            num_idle = sum(lane.call is None for lane in self._lanes)
            call.items = self._scheduler.merge(first, waiting, now, idle_lanes=num_idle)
            call.limit_seconds = stall_limit(self._stall_seconds, sum(item.seconds for item in call.items))
            for order in (item.ticket.owner for item in call.items[1:]):
                order.started = order.started or now

    def _hand_in(self, lane: Lane, call: Call) -> list[Ending]:
        """Book a call that has come back; returns the orders that this ends."""
        lane.call = None
        outcome = call.outcome
        lane_seconds = None if outcome.kinds else time.monotonic() - call.started
        self._scheduler.finish(call.items, lane_seconds)
        self._count_call(call, outcome)
        self.has_failed = self.has_failed or outcome.is_broken
        return self._collect(call, outcome)

    def _count_call(self, call: Call, outcome: Outcome) -> None:
        counters = self.counters
        counters["calls"] += 1
        counters["calls_merged"] += len(call.items) > 1
        for kind in outcome.kinds:
            counters[kind] += 1
        self._num_failures += len(call.items)
        if outcome.has_answer:
            self._num_losses = 0
        if outcome.has_answer or self._num_failures >= FAILURES_BEFORE_PROBE:
            self._num_failures = 0

    def _collect(self, call: Call, outcome: Outcome) -> list[Ending]:
        """Hand each text's rows to its order; returns the orders that this ends."""
        endings: list[Ending] = []
        share = outcome.seconds / len(call.items)
        for item, rows in zip(call.items, outcome.rows, strict=True):
            order: Order | None = item.ticket.owner
            if isinstance(rows, LaneFailed):
                if order is not None and self._close(order, "requests_failed"):
                    endings.append((order, rows))
                continue
            tokens = len(item.encoding)
            self.counters["texts_run"] += 1
            self.counters["tokens_run"] += tokens
            call.served.estimator.correct(item.text, tokens)
            if order is not None:
                order.put(item, rows, share)
                if order.num_left == 0:
                    endings += self._answer(order)
        return endings

    def _answer(self, order: Order) -> list[Ending]:
        """End an order that has all its rows; where its answer cannot be put together, with that."""
        ending: Answered | LaneFailed
        counter = "requests_answered"
        try:
            ending = order.answered()
        except Exception as error:
            logger.exception("an answer could not be put together")
            counter = "requests_failed"
            ending = LaneFailed(f"the answer could not be put together ({type(error).__name__})")
        return [(order, ending)] if self._close(order, counter) else []

    def _close(self, order: Order, counter: str) -> bool:
        if order.is_settled:
            return False
        self._scheduler.drop(order.ticket)
        order.release()
        self._orders.discard(order)
        self.counters[counter] += 1
        return True

    def _hire(self) -> None:
        self._num_lanes_made += 1
        self._lanes.append(Lane(self._num_lanes_made, self._serve))

    def _watch(self, watch_seconds: float) -> None:
        due = perf_counter() + watch_seconds
        while not self._stop.wait(watch_seconds):
            try:
                if self._is_over_after_a_look(due):
                    return
            except Exception:
                logger.exception("the watchdog broke")
                with self._lock:
                    self.has_failed = True
                self.fail_all(LaneFailed("nothing watches the lanes any more"))
                return
            due = perf_counter() + watch_seconds

    def _is_over_after_a_look(self, due: float) -> bool:
        """Replace the lanes that are lost; True where there is nothing left to watch.

        By how much the look itself comes late, calls may take longer: whatever stopped the watchdog (the process was
        frozen, its machine moved) has stopped them too.
        """
        with self._lock:
            if self._is_stopping or self.has_failed:
                return True  # the lanes end as they should: none of them is lost
            now = time.monotonic()
            late_seconds = max(0.0, perf_counter() - due)
            for call in (lane.call for lane in self._lanes):
                if call is not None:
                    call.limit_seconds += late_seconds
            lost = [lane for lane in self._lanes if lane.is_lost(now)]
            endings = [ending for lane in lost for ending in self._give_up(lane)]
            if not self.has_failed:
                self._fill_up()
            has_failed = self.has_failed
        tell(endings, self._end)
        if has_failed:
            self.fail_all(LaneFailed("too many lanes were lost"))
        return has_failed

    def _give_up(self, lane: Lane) -> list[Ending]:
        """Give a lane up: its requests fail, and so does the engine if too many were lost."""
        lane.is_given_up = True
        self._lanes.remove(lane)
        self._idle = [other for other in self._idle if other is not lane]
        is_hung = lane.thread.is_alive()
        self._hung = [other for other in (*self._hung, lane) if other.thread.is_alive()]
        self._num_losses += 1
        self.counters["lanes_replaced"] += 1
        self.counters["lane_hangs"] += is_hung
        logger.error("a lane %s and is replaced", "hangs in the model" if is_hung else "ended")
        items = lane.call.items if lane.call else []
        self._scheduler.finish(items)
        error = LaneFailed("the model did not come back in time" if is_hung else "the lane ended")
        orders = [item.ticket.owner for item in items]
        num_lanes = self._scheduler.lanes
        if len(self._hung) > num_lanes or self._num_losses > LOSSES_PER_LANE * num_lanes:
            self.has_failed = True
        return [(order, error) for order in orders if order and self._close(order, "requests_failed")]

    def _fill_up(self) -> None:
        """Hire for lanes that were given up; where the system has no thread left, the next look tries again."""
        while len(self._lanes) < self._scheduler.lanes:
            try:
                self._hire()
            except (RuntimeError, MemoryError) as error:
                logger.error("no thread for a lane: %s; %d of %d work", error, len(self._lanes), self._scheduler.lanes)
                self.has_failed = not self._lanes
                return
