"""How numbers are written for people: the same way on the page, in the headline and on the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSING = "—"
_SAME = 1.05


@dataclass(frozen=True)
class Direction:
    """The words for a ratio above, below and about one."""

    above: str
    below: str
    same: str


SIZE = Direction(above="smaller than", below="larger than", same="as large as")
SPEED = Direction(above="faster than", below="slower than", same="as fast as")


def is_known(value: float | None) -> bool:
    """Whether there is a number at all: neither null nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def known(value: float | None) -> float | None:
    """The number, or None for what is no number."""
    return value if is_known(value) else None


def megabytes(num_bytes: float | None) -> str:
    """Bytes as megabytes of 10^6 bytes; two significant digits at least."""
    if num_bytes is None or not is_known(num_bytes):
        return MISSING
    size = num_bytes / 1e6
    return f"{size:.1f} MB" if size >= 1 else f"{size:.2g} MB"


def milliseconds(value: float | None) -> str:
    """A latency with two to three significant digits, without its unit."""
    if value is None or not is_known(value):
        return MISSING
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 0.4 s, 12 s, 2 min 31 s."""
    if seconds is None or not is_known(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count(value: float | None) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}" if value is not None and is_known(value) else MISSING


def millions(value: float | None) -> str:
    """A number of parameters: 22.7M, 340k, 512."""
    if value is None or not is_known(value):
        return MISSING
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    return f"{value / 1e3:.0f}k" if value >= 1e3 else f"{value:.0f}"


def figure(value: float | None) -> str:
    """A metric with three decimals."""
    return f"{value:.3f}" if value is not None and is_known(value) else MISSING


def compact(value: float | None) -> str:
    """A limit or a difference of any magnitude: 0.01, 2.4e-6."""
    if value is None or not is_known(value):
        return MISSING
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def interval(low: float | None, high: float | None) -> str:
    """`[0.715, 0.776]`, or nothing when it is not known."""
    if low is None or high is None or not (is_known(low) and is_known(high)):
        return ""
    return f"[{figure(low)}, {figure(high)}]"


def plain_metric(metric: str) -> str:
    """A metric's name in words: `macro_f1` reads macro F1."""
    words = {
        "f1": "F1",
        "mcc": "MCC",
        "neg": "minus",
        "pearson": "Pearson",
        "spearman": "Spearman",
    }
    return " ".join(words.get(part, part) for part in metric.split("_"))


def times(ratio: float | None) -> str:
    """A factor: `3.7×`; hundreds without decimals."""
    if ratio is None or not is_known(ratio):
        return MISSING
    return f"{ratio:.2f}×" if ratio < 1 else f"{ratio:.1f}×" if ratio < 100 else f"{ratio:,.0f}×"


def ratio_in_words(ratio: float, direction: Direction) -> str:
    """A factor as a phrase that is true on either side of one, e.g. `3.7 times faster than`."""
    if 1 / _SAME < ratio < _SAME:
        return f"about {direction.same}"
    factor, word = (ratio, direction.above) if ratio > 1 else (1 / ratio, direction.below)
    return f"{times(factor).removesuffix('×')} times {word}"


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""


def number_of(amount: int, noun: str) -> str:
    """`one thread`, `2 threads`."""
    return f"one {noun}" if amount == 1 else f"{amount} {noun}s"
