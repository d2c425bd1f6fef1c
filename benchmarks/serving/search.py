"""The highest rate that a server holds, found step by step; pure, so the measuring is somebody else's."""

from __future__ import annotations

import math

LARGEST_STEP = 0.3


class RateSearch:
    """Walks from a guess until one rate held and one did not, then halves the gap on a logarithmic scale.

    Steps grow to `LARGEST_STEP` and no further: a server whose guess was far off would otherwise be left with a gap too
    wide to be halved away, and with the lower end of it.
    """

    def __init__(self, guess: float, *, step: float = 0.1, resolution: float = 0.04, max_probes: int = 10) -> None:
        """Measure nothing yet.

        Args:
            guess: rate to begin with, above 0.
            step: relative width of the walk, above 0; it doubles with every step until a rate held and one did not.
            resolution: stop when the failing rate is at most this much (relative) above the holding one.
            max_probes: measurements, as long as one held; until then the walk goes on downwards.
        """
        if not (guess > 0 and step > 0 and resolution > 0):
            raise ValueError(f"guess {guess}, step {step} and resolution {resolution} must be above 0")
        self._next = guess
        self._step = step
        self._resolution = resolution
        self._max_probes = max_probes
        self._probes = 0
        self._held: float | None = None
        self._failed: float | None = None

    @property
    def next_rate(self) -> float | None:
        """What to measure next; None when the search is over."""
        if self._held is None:
            return self._next if self._probes < 4 * self._max_probes else None
        is_fine = self._failed is not None and self._failed / self._held <= 1 + self._resolution
        return None if is_fine or self._probes >= self._max_probes else self._next

    @property
    def highest(self) -> float | None:
        """The highest rate that held; None when none did."""
        return self._held

    def record(self, rate: float, has_held: bool) -> None:
        """Take one result; the next rate follows from it."""
        self._probes += 1
        if has_held:
            self._held = rate if self._held is None else max(rate, self._held)
        else:
            self._failed = rate if self._failed is None else min(rate, self._failed)
        if self._held is not None and self._failed is not None:
            self._failed = max(self._failed, self._held)  # noise: it held above where it had failed
            self._next = math.sqrt(self._held * self._failed)
        else:
            self._next = rate * (1 + self._step) if has_held else rate / (1 + self._step)
            self._step = min(2 * self._step, max(LARGEST_STEP, self._step))
