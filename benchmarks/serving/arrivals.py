"""When requests are due and which text each carries: drawn before the first is sent, the same for every server.

Open loop: the times do not depend on the answers, as with users who do not know of each other (Poisson arrivals).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_PER_SECOND = 20_000
"""Texts in a closed loop, more than any generator can send or any loop run."""


@dataclass(frozen=True)
class Schedule:
    """What is to be sent.

    Attributes:
        intended: [requests] seconds from the start at which each request is due, ascending.
        texts: [requests] number of the text that each carries.
        seconds: length of the window that the arrivals were drawn for.
    """

    intended: NDArray[np.float64]
    texts: NDArray[np.int64]
    seconds: float


def closed_order(seconds: float, num_texts: int, seed: int) -> list[int]:
    """Numbers of more texts than can be run in that time; they begin as those of `poisson_schedule` do.

    Args:
        seconds: length of the window.
        num_texts: texts to draw from, each equally likely.
        seed: the same seed gives the same beginning for any length.
    """
    most = int(MOST_PER_SECOND * seconds) + 1
    order: list[int] = np.random.default_rng([seed, 1]).integers(0, num_texts, size=most).tolist()
    return order


def poisson_schedule(rate: float, seconds: float, num_texts: int, seed: int) -> Schedule:
    """Poisson arrivals over a window.

    Args:
        rate: requests per second on average, above 0.
        seconds: length of the window, above 0.
        num_texts: texts to draw from, each equally likely.
        seed: the same seed gives the same texts in the same order at any rate, and the same gaps in units of 1 / rate.

    Returns:
        The requests that fall into the window; their number varies with the seed, as it does with users.

    Raises:
        ValueError: a rate, a length or a number of texts that is not above 0.
    """
    if not (rate > 0 and seconds > 0 and num_texts > 0):
        raise ValueError(f"rate {rate}, seconds {seconds} and number of texts {num_texts} must be above 0")
    gaps, texts = (np.random.default_rng([seed, stream]) for stream in range(2))
    room = int(rate * seconds + 10 * np.sqrt(rate * seconds) + 20)
    times = np.cumsum(gaps.exponential(1.0, size=room)) / rate
    intended = times[times < seconds]
    return Schedule(intended, texts.integers(0, num_texts, size=room)[: len(intended)], seconds)
