"""What quantisation did: layer by layer, what it cost, what stayed fp32 and why. The page and the terminal share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compressor.report.plots import Figure, colour, layout, shown
from compressor.report.table import Table
from compressor.report.wording import MISSING, compact, count, is_known, megabytes, number_of, times

_RANGES = {
    "minmax": "all that was seen",
    "percentile_99.9": "the central 99.9%",
    "percentile_99.99": "the central 99.99%",
    "entropy": "least relative entropy",
    "mse": "least squared error",
}
_ROW_PIXELS = 22


@dataclass(frozen=True)
class PrecisionView:
    """One quantised artifact.

    Attributes:
        precision: its name.
        sentences: totals, exclusion and sample in words.
        layers: every layer with its bytes and what its quantisation costs.
        steps: the search for layers that must stay fp32; None where there was none.
        ranges: ways of choosing ranges compared; None where activations have no fixed ones.
        fallbacks: nodes that stay fp32 in fp16; None where there is none.
        plot: the layers' errors; None where none was measured.
    """

    precision: str
    sentences: tuple[str, ...]
    layers: Table
    steps: Table | None
    ranges: Table | None
    fallbacks: Table | None
    plot: Figure | None


def quantisation_views(report: Mapping[str, Any]) -> list[PrecisionView]:
    """A view per quantised precision of a report; none where every artifact is fp32."""
    return [precision_view(name, facts) for name, facts in (report.get("quantisation") or {}).items()]


def precision_view(precision: str, facts: Mapping[str, Any]) -> PrecisionView:
    """The view of one precision.

    Args:
        precision: its name.
        facts: a `QuantisationSummary` and an `Explanation` of `export.quantise` as JSON values.
    """
    return PrecisionView(
        precision=precision,
        sentences=tuple(_sentences(facts)),
        layers=_layers(facts),
        steps=_steps(facts["exclusion"]),
        ranges=_ranges(facts),
        fallbacks=_fallbacks(facts),
        plot=_plot(precision, facts),
    )


def _sentences(facts: Mapping[str, Any]) -> Iterator[str]:
    operators = " and ".join(f"{number} {kind}" for kind, number in facts["operators"].items())
    yield (
        f"{operators} read weights of fewer bits. The file has {megabytes(facts['actual_bytes'])}; the weights alone, "
        f"all layers quantised, would take {megabytes(facts['expected_bytes'])}."
    )
    exclusion = facts["exclusion"]
    yield f"{exclusion['note'][:1].upper()}{exclusion['note'][1:]}."
    if exclusion.get("layers"):
        yield _price(exclusion)
    if facts.get("sensitivity"):
        yield f"Layers are compared on {number_of(facts['texts'], 'training text')}, one at a time, against fp32."
    if facts.get("ranges"):
        learned = number_of(facts["calibration_texts"], "training text")
        yield f"The ranges of activations are learned from {learned}."


def _price(exclusion: Mapping[str, Any]) -> str:
    ratio = exclusion.get("latency_ratio")
    paid = f"Left in fp32: {', '.join(exclusion['layers'])}. That costs {megabytes(exclusion['bytes_paid'])}"
    if not ratio:
        return f"{paid}; its time was not measured."
    return f"{paid}, and one text takes {times(ratio[0])} [{ratio[1]:.2f}, {ratio[2]:.2f}] as long."


def _layers(facts: Mapping[str, Any]) -> Table:
    measured = {found["layer"]: found for found in facts.get("sensitivity") or ()}
    rows = tuple(_layer_row(layer, measured.get(layer["layer"])) for layer in facts["layers"])
    columns = (
        "layer",
        "what it is",
        "stored as",
        "why",
        "bytes expected",
        "bytes in the file",
        "alone: logit MSE",
        "alone: metric",
        "alone: answers changed",
        "all but it: logit MSE",
        "all but it: metric",
    )
    marks = tuple("failed" if layer["stored"] == "fp32" else "" for layer in facts["layers"])
    return Table(columns, rows, text_columns=4, marks=marks)


def _layer_row(layer: Mapping[str, Any], measured: Mapping[str, Any] | None) -> tuple[str, ...]:
    cells = (
        layer["layer"],
        layer["role"],
        layer["stored"],
        layer.get("reason") or MISSING,
        count(layer["expected_bytes"]),
        count(layer["actual_bytes"]),
    )
    if measured is None:
        return (*cells, *[MISSING] * 5)
    only, without = measured["only"], measured["without"]
    return (
        *cells,
        compact(only["squared_error"]),
        _change(only["metric_change"]),
        f"{only['answers_changed']:.1%}",
        compact(without["squared_error"]),
        _change(without["metric_change"]),
    )


def _change(value: float | None) -> str:
    return f"{value:+.3f}" if value is not None and is_known(value) else MISSING


def _steps(exclusion: Mapping[str, Any]) -> Table | None:
    steps = exclusion.get("steps") or ()
    if len(steps) < 2:
        return None
    rows = tuple(
        (
            str(number),
            step["layer"] or "none",
            step["verdict"],
            _change(step["metric_drop"]),
            f"[{_change(step['low'])}, {_change(step['high'])}]",
        )
        for number, step in enumerate(steps)
    )
    marks = tuple(step["verdict"] for step in steps)
    return Table(("step", "left in fp32 too", "gate", "metric lost", "95% interval"), rows, text_columns=3, marks=marks)


def _ranges(facts: Mapping[str, Any]) -> Table | None:
    found = facts.get("ranges") or ()
    rows = tuple(
        (
            f"{row['method']}: {_RANGES.get(row['method'], '')}",
            compact(row["effect"]["squared_error"]),
            _change(row["effect"]["metric_change"]),
            f"{row['effect']['answers_changed']:.1%}",
            f"{row['clipped']:.3%}",
            f"{row['worst_clipped']:.3%}",
        )
        for row in found
    )
    columns = ("range", "logit MSE", "metric", "answers changed", "clipped", "clipped, worst layer")
    marks = tuple("default" if row["is_chosen"] else "" for row in found)
    return Table(columns, rows, marks=marks) if rows else None


def _fallbacks(facts: Mapping[str, Any]) -> Table | None:
    rows = tuple(sorted((facts.get("fallbacks") or {}).items()))
    return Table(("operator", "why it stays fp32"), rows, text_columns=2) if rows else None


def _plot(precision: str, facts: Mapping[str, Any]) -> Figure | None:
    """The error of each layer alone, on a scale of powers of ten; exact layers have no bar."""
    found = [row for row in facts.get("sensitivity") or () if row["only"]["squared_error"] > 0]
    if not found:
        return None
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": [shown(row["layer"].removeprefix("encoder/")) for row in found],
        "x": [row["only"]["squared_error"] for row in found],
        "marker": {"color": colour(precision)},
        "hovertemplate": "%{y}: %{x:.3g}<extra></extra>",
    }
    drawn = layout("logit MSE", "error of each layer quantised alone", height=90 + _ROW_PIXELS * len(found))
    drawn["xaxis"] |= {"type": "log"}
    drawn["yaxis"] |= {"autorange": "reversed"}
    return {"data": [bar], "layout": drawn}
