"""Whose answers changed: what a model answers otherwise than the one it replaces, and in which slice it lost most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.plots import Figure, layout, shown
from compressor.report.table import Table
from compressor.report.wording import MISSING, count, listed

_LOST, _WON, _OTHER = "#d55e00", "#009e73", "#c3c8d1"
_MOST_DRAWN = 30

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class ChurnView:
    """What the page shows of one task.

    Attributes:
        task: its name.
        table: every pair of models.
        plot: the slices of the served artifact against the model it replaces; None for a regression or without slices.
        title: which two models the slices are about.
        slices: all of them; None without slices.
        left_out: a sentence on slices with too few texts, or empty.
        is_cut: whether only the slices that lost most are drawn.
    """

    task: str
    table: Table
    plot: Figure | None
    title: str
    slices: Table | None
    left_out: str
    is_cut: bool


def churn_views(report: Mapping[str, Any]) -> list[ChurnView]:
    """One view per task with at least two models."""
    default = next((a["precision"] for a in report.get("artifacts") or [] if a.get("is_default")), None)
    return [_view(task, pairs, default) for task, pairs in (report.get("churn") or {}).items() if pairs]


def _view(task: str, pairs: Sequence[Facts], default: str | None) -> ChurnView:
    main = next((pair for pair in pairs if pair["model"] == default), pairs[0])
    slices = main["slices"]
    names = main["left_out"]
    return ChurnView(
        task=task,
        table=_table(pairs),
        plot=flips_by_slice(slices) if slices and main["flips"] else None,
        title=f"{_called(main['model'])} against {_called(main['against'])}",
        slices=_slice_table(slices) if slices else None,
        left_out=f"Left out for too few test texts: {listed(names)}." if names else "",
        is_cut=len(slices) > _MOST_DRAWN,
    )


def _called(model: str) -> str:
    words = {"teacher": "the teacher", "student": "the torch student"}
    return words.get(model, f"the {model} student")


def _table(pairs: Sequence[Facts]) -> Table:
    rows = tuple(
        (
            _called(pair["model"]),
            _called(pair["against"]),
            _share(pair["share"]) if pair["share"] else MISSING,
            *_directions(pair["flips"]),
            _signed(pair["drop"]),
            _worst(pair["worst_slice"]),
        )
        for pair in pairs
    )
    columns = (
        "model",
        "against",
        "other answers",
        "right → wrong",
        "wrong → right",
        "wrong → other wrong",
        "net loss",
        "net loss in the worst slice",
    )
    return Table(columns, rows, text_columns=2)


def _share(share: Mapping[str, float]) -> str:
    return f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"


def _directions(flips: Mapping[str, int] | None) -> tuple[str, str, str]:
    if flips is None:
        return MISSING, MISSING, MISSING
    return count(flips["right_to_wrong"]), count(flips["wrong_to_right"]), count(flips["wrong_to_wrong"])


def _signed(drop: Mapping[str, float]) -> str:
    return f"{100 * drop['value']:+.1f} points [{100 * drop['low']:+.1f}, {100 * drop['high']:+.1f}]"


def _worst(worst: Mapping[str, Any] | None) -> str:
    return f"{worst['name']}: {_signed(worst)}" if worst else "too few texts"


def _slice_table(slices: Sequence[Facts]) -> Table:
    rows = tuple(
        (
            part["name"],
            part["kind"],
            count(part["rows"]),
            *_directions(part["flips"]),
            _signed(part["drop"]),
        )
        for part in slices
    )
    columns = ("slice", "kind", "test texts", "right → wrong", "wrong → right", "wrong → other wrong", "net loss")
    return Table(columns, rows, text_columns=2)


def flips_by_slice(slices: Sequence[Facts]) -> Figure:
    """Share of each slice that was lost (left) and won (right), the worst on top; at most thirty.

    Args:
        slices: at least one, with flips.
    """
    drawn = sorted(slices, key=lambda part: -part["drop"]["value"])[:_MOST_DRAWN][::-1]
    look = layout("share of the slice's texts", "lost and won answers", height=120 + 26 * len(drawn), legend_entries=2)
    look |= {"barmode": "relative", "bargap": 0.35}
    look["yaxis"] |= {
        "tickvals": list(range(len(drawn))),
        "ticktext": [f"{shown(str(part['name']))} ({part['rows']})" for part in drawn],
        "showgrid": False,
    }
    look["xaxis"] |= {"tickformat": ".0%", "zeroline": True, "zerolinecolor": _OTHER}
    return {
        "data": [
            _bars("right → wrong", [-part["flips"]["right_to_wrong"] / part["rows"] for part in drawn], _LOST),
            _bars("wrong → right", [part["flips"]["wrong_to_right"] / part["rows"] for part in drawn], _WON),
        ],
        "layout": look,
    }


def _bars(name: str, shares: Sequence[float], colour: str) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": list(shares),
        "y": list(range(len(shares))),
        "marker": {"color": colour},
        "customdata": [abs(share) for share in shares],
        "hovertemplate": f"{name}: %{{customdata:.1%}}<extra></extra>",
    }
