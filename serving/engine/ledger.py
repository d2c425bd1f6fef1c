"""Promised work by deadline: whether one more request can be promised without breaking a promise."""

from __future__ import annotations

from bisect import bisect_left, insort

BIN_SECONDS = 0.02
"""Deadlines within one bin count as the earliest of them."""


class Ledger:
    """Seconds of lane time that are still owed, by deadline in bins; adding and removing take O(log bins)."""

    def __init__(self) -> None:
        """Owe nothing."""
        self.total = 0.0
        self._bins: list[int] = []
        self._owed: dict[int, list[float]] = {}  # bin -> [seconds, number of entries, earliest deadline]

    def add(self, deadline: float, seconds: float) -> None:
        """Promise that many seconds of work until a deadline."""
        number = int(deadline // BIN_SECONDS)
        entry = self._owed.get(number)
        if entry is None:
            insort(self._bins, number)
            entry = self._owed[number] = [0.0, 0, deadline]
        entry[0] += seconds
        entry[1] += 1
        entry[2] = min(entry[2], deadline)
        self.total += seconds

    def remove(self, deadline: float, seconds: float) -> None:
        """Take back what `add` was given: it is done, or nobody wants it any more."""
        number = int(deadline // BIN_SECONDS)
        entry = self._owed[number]
        entry[0] -= seconds
        entry[1] -= 1
        self.total -= seconds
        if entry[1] == 0:
            del self._owed[number]
            del self._bins[bisect_left(self._bins, number)]
        if not self._bins:
            self.total = 0.0  # what rounding has left over

    def excess(self, deadline: float, seconds: float, *, start: float, speed: float) -> float:
        """By how much the worst promise would be broken if one more were made.

        Promises due earlier than the new one are not touched by it, and do not count.

        Args:
            deadline: of the new work.
            seconds: of the new work.
            start: when lanes become free.
            speed: seconds of work done per second.

        Returns:
            Seconds beyond the deadline; at most 0 when all promises can be kept.
        """
        if not self._bins or deadline >= self._owed[self._bins[-1]][2]:
            return start + (self.total + seconds) / speed - deadline
        worst, owed, is_counted = float("-inf"), 0.0, False
        for number in self._bins:
            amount, _, earliest = self._owed[number]
            if earliest >= deadline:
                if not is_counted:  # the new work itself, behind all that is due before it
                    owed, is_counted = owed + seconds, True
                    worst = start + owed / speed - deadline
                worst = max(worst, start + (owed + amount) / speed - earliest)
            owed += amount
        return worst
