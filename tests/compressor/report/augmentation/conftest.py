"""What a run writes of added texts, with figures whose reading is known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from compressor.report import page

EPISODES = 400
EDGES = [place / 10 for place in range(11)]

Curve = Callable[..., list[dict[str, float]]]
Pairs = Callable[[int], list[list[float]]]
Example = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def without_plotly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes of plotly.js say nothing about our own HTML; the browser tests have them."""
    if "chromium" not in request.fixturenames:
        monkeypatch.setattr(page, "get_plotlyjs", lambda: "")


@pytest.fixture
def curve() -> Curve:
    """Rewards that go from start to end, to either side of the line by turns; fewer texts are kept as they do."""

    def made(*, start: float, end: float, noise: float = 0.004, episodes: int = EPISODES) -> list[dict[str, float]]:
        return [
            {
                "episode": place + 1,
                "reward": start + (end - start) * place / episodes + noise * (-1) ** place,
                "reward_scaled": 0.4,
                "keep_rate": 0.8 - 0.4 * place / episodes,
                "entropy": 0.69 - 0.2 * place / episodes,
                "progress": (0.1, 0.4, 0.8)[place % 3],
            }
            for place in range(episodes)
        ]

    return made


@pytest.fixture
def pairs() -> Pairs:
    """Cheap and full rewards that go together but for every third."""
    return lambda number: [[place / 1000, (place + 9 * (place % 3 == 0)) / 500] for place in range(number)]


@pytest.fixture
def example() -> Example:
    """One text of a source with two words replaced."""
    facts = {
        "start": ["The book was dull, I never finished it"],
        "text": ["the mixer was loud, I never finished it"],
        "label": "negative",
        "confidence": 0.934,
        "is_source": True,
        "score": 0.8,
    }
    return lambda **other: {**facts, **other}


@pytest.fixture
def facts(curve: Curve, pairs: Pairs, example: Example) -> dict[str, Any]:
    """What an l2a student was given: kitchen reviews, made of 200 own and 2,000 book reviews."""
    return {
        "method": "l2a",
        "selector": "learned",
        "credit": "reinforce",
        "knobs": {
            "weight": 1.0, "start": "both", "source_share": 0.5, "rate": 0.3, "top_k": 20, "rounds": 3, "mlm": "adapt",
        },
        "counts": {
            "generated": 3000,
            "dropped": {"evaluation": 0, "own": 12, "repeated": 40, "edited_too_much": 200, "unsure": 300},
            "candidates": 2448, "kept": 1224, "target_rows": 200, "source_rows": 2000, "reward_rows": 50, "folds": 1,
        },
        "seconds": {"masked_lm": 60.0, "generate": 300.0, "teacher": 50.0, "student": 70.0, "selector": 120.0},
        "classes": [
            {"label": "negative", "target": 100, "candidates": 1148, "kept": 574},
            {"label": "positive", "target": 100, "candidates": 1300, "kept": 650},
        ],
        "domain": {
            "edges": EDGES,
            "candidates": [400, 300, 250, 200, 150, 148, 200, 250, 300, 250],
            "kept": [40, 60, 80, 90, 100, 104, 150, 180, 220, 200],
        },
        "edits": {
            "edges": EDGES[:6],
            "candidates": [300, 600, 700, 500, 348],
            "kept": [200, 350, 374, 200, 100],
        },
        "selection": {
            "share": 0.5,
            "shares": [
                {"share": 0.25, "kept": 612, "loss": 0.4321, "gain": 0.0079, "error": 0.0214},
                {"share": 0.5, "kept": 1224, "loss": 0.41, "gain": 0.03, "error": 0.0123},
                {"share": 0.75, "kept": 1836, "loss": 0.425, "gain": 0.015, "error": 0.011},
                {"share": 1.0, "kept": 2448, "loss": 0.44, "gain": 0.0, "error": 0.0},
            ],
            "curve": curve(start=0.0, end=0.01),
            "correlation": {"rho": 0.62, "pairs": pairs(20)},
        },
        "examples": {
            "kept": [example(), example(is_source=False, start=["It works"], text=["It works"], score=None)],
            "dropped": [example(score=0.1, label="positive", confidence=0.61)],
        },
    }  # fmt: skip
