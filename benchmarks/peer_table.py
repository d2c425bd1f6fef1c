"""The comparison with optimum-onnx in words and tables, from its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.cells import machine_in_words

GOAL = 0.97
GOAL_IN_USE = 1.15


def describe(found: Mapping[str, Any]) -> str:
    """Markdown: speed, correctness, and how the peer reads our bundle."""
    architectures = found["architectures"]
    return "\n\n".join(
        (
            f"{found['layers']} layers, {found['texts']} supportdesk texts of their own lengths, one thread, "
            f"{found['rounds']} interleaved rounds, on {machine_in_words(found)}. "
            "The ratio is the peer's time over ours, above 1 where ours is faster, with its 95% interval; the goal is "
            f"a lower end of at least {found['goal']}.",
            "\n".join(_speed(architectures, "ratios")),
            _verdict(architectures, "ratios", found["goal"]),
            f"As the programs are used, {found['texts_in_use']} texts in calls of 8: ours takes texts of like length "
            "together, the peer's classes take them as they come; the time is the model's, without tokenising. "
            f"The goal is a lower end of at least {found['goal_in_use']}.",
            "\n".join(_speed(architectures, "in_use")),
            _verdict(architectures, "in_use", found["goal_in_use"]),
            "Largest logit difference from the torch model over all shapes, and share of equal answers:",
            "\n".join(_correctness(architectures)),
            "Our bundle, read by the peer's `ORTModelForSequenceClassification` and `AutoTokenizer`: golden texts with "
            "the recorded ids, and the largest difference from the recorded logits:",
            "\n".join(_reading(architectures)),
            *_notes(architectures),
        )
    )


def _speed(architectures: Mapping[str, Any], kind: str) -> Iterator[str]:
    yield "| architecture | precision | batch | peer | peer's time / ours |"
    yield "|---|---|--:|---|--:|"
    for name, result in architectures.items():
        for cell in result[kind]:
            yield (
                f"| {name} | {cell['precision']} | {cell['batch_size']} | {cell['peer']} "
                f"| {cell['ratio']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}] |"
            )


def _verdict(architectures: Mapping[str, Any], kind: str, goal: float) -> str:
    cells = [(name, cell) for name, result in architectures.items() for cell in result[kind]]
    missed = [
        f"{name} {cell['precision']} batch {cell['batch_size']} against {cell['peer']}"
        for name, cell in cells
        if cell["low"] < goal
    ]
    reached = f"{len(cells) - len(missed)} of {len(cells)} cells reach the goal."
    return f"{reached} Missed: {'; '.join(missed)}." if missed else reached


def _correctness(architectures: Mapping[str, Any]) -> Iterator[str]:
    yield "| architecture | graph | bytes | largest difference | same answers |"
    yield "|---|---|--:|--:|--:|"
    for name, result in architectures.items():
        for graph, parity in result["parity"].items():
            yield (
                f"| {name} | {graph} | {result['bytes'][graph]:,} | {parity['max_difference']:.2g} "
                f"| {parity['agreement']:.1%} |"
            )


def _reading(architectures: Mapping[str, Any]) -> Iterator[str]:
    yield "| architecture | ids | fp32 | int8 |"
    yield "|---|--:|--:|--:|"
    for name, result in architectures.items():
        read = result["peer"]["bundle"]
        cells = (_difference(read["artifacts"].get(precision)) for precision in ("fp32", "int8"))
        yield f"| {name} | {read['same_ids']} of {read['texts']} | {' | '.join(cells)} |"


def _difference(found: float | str | None) -> str:
    if found is None:
        return "not in the bundle"
    return found if isinstance(found, str) else f"{found:.2g}"


def _notes(architectures: Mapping[str, Any]) -> Iterator[str]:
    """What the peer could not make, or not as it is shipped."""
    notes = [
        f"- {name}, {graph}: {note}"
        for name, result in architectures.items()
        for graph, note in result["peer"]["notes"].items()
        if note != "as shipped"
    ]
    if notes:
        yield "Of the peer's graphs:\n\n" + "\n".join(notes)
