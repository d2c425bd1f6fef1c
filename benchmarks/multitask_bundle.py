"""What many tasks cost in one graph: the heads nobody asked for, and one bundle against one bundle per task.

The students have the demo's shape (three layers of MiniLM) and, as `bert`, its pretrained encoder, whose pooler all
heads share; as `roberta` random weights of the same shape, where every head has a layer of the encoder's width of its
own. The heads are fresh: this is about time, bytes and memory, not about answers. One thread, real texts of
supportdesk with their own lengths, all arms in turn in every round, the order rotating; a ratio is the median over the
rounds with its 95% interval.

- heads: ONNX Runtime computes every output even where one is asked for. One task asked of graphs with 1, 3 and 8.
- bundles: all three tasks of a text, tokenised, run and read as answers, by one bundle or by three in turn; the bytes
  of both on disk, and the memory of `compressor serve` after a few hundred requests.

    python -m benchmarks.multitask_bundle --output benchmarks/results/multitask_bundle.json

About six minutes on one core that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import HERE, machine, machine_in_words, put_block
from benchmarks.multitask_students import SIZES, Exported, Shape, bundle_of, make_students, split_student
from benchmarks.serving_memory import serving_bytes
from benchmarks.training import rotated
from compressor.data.prepare import prepare
from compressor.data.splits import TEST
from compressor.pipeline.stages import write_json
from compressor.progress import announce
from compressor.recipe import TaskSettings
from export.statistics import paired_ratio
from serving.bundle import Bundle
from serving.model import OnnxModel
from serving.tokenise import Encoding

NAME = "multitask-bundle"
DOCS = HERE.parent / "docs" / "multitask.md"
GOAL = 1.05
"""Above it, asking one task of many is worth heads that are skipped."""
NUM_TASKS = 3
BATCH_SIZES = (1, 8)
BUNDLE_TEXTS = 64
"""That the claims of a bundle are measured on; nothing here depends on them."""
PRECISIONS = ("fp32", "int8")
MODELS = ("bert", "roberta")
QUICK = {"texts": 8, "rounds": 3, "requests": 3}
Arm = Callable[[], object]


def main(given: Sequence[str] | None = None) -> None:
    """Make the students, run both parts, write JSON and the block of the page."""
    arguments = _parse(given)
    texts = _texts(arguments.texts)
    result: dict[str, Any] = {"settings": _settings(arguments), **machine(), "heads": [], "bundles": []}
    with tempfile.TemporaryDirectory() as place:
        for name in MODELS:
            shape = Shape(arguments.model, arguments.layers, is_pretrained=name == "bert")
            made = make_students(shape, Path(place) / name)
            for precision in PRECISIONS:
                result["heads"] += _heads(name, made, precision, texts, arguments.rounds)
            if shape.is_pretrained:
                students = [made[NUM_TASKS], *split_student(made[NUM_TASKS], shape.base, Path(place) / "singles")]
                several, *singles = [bundle_of(student, texts[:BUNDLE_TEXTS]) for student in students]
                result |= _bundles(several, singles, texts, arguments)
    write_json(arguments.output, result)
    put_block(arguments.docs, NAME, markdown(result))
    print(markdown(result))


def _texts(number: int) -> list[tuple[str, ...]]:
    """Test texts of supportdesk, evenly spread."""
    settings = TaskSettings(data="supportdesk", text="text", label="intent", metric="accuracy")
    texts = prepare({"intent": settings})["intent"].splits[TEST].texts
    picks = np.linspace(0, len(texts) - 1, num=min(number, len(texts))).round().astype(int)
    return [texts[pick] for pick in picks]


def _heads(
    model: str, made: Mapping[int, Exported], precision: str, texts: Sequence[tuple[str, ...]], rounds: int
) -> list[dict[str, Any]]:
    """One task asked of graphs with more and more heads: their time over the graph that has this head alone."""
    loaded = {size: student.graph(precision) for size, student in made.items()}
    found: list[dict[str, Any]] = []
    for batch_size in BATCH_SIZES:
        batches = _batches(loaded[1].encoder.encode(texts), batch_size)
        arms = {str(size): _asking_first(graph, batches) for size, graph in loaded.items()}
        seconds = time_in_turns(arms, rounds)
        for size in SIZES[1:]:
            found.append(
                {
                    "model": model,
                    "precision": precision,
                    "batch_size": batch_size,
                    "tasks": size,
                    "call_ms": _call_ms(seconds[str(size)], len(batches)),
                    "alone_ms": _call_ms(seconds["1"], len(batches)),
                    "ratio": _ratio(seconds[str(size)], seconds["1"]),
                }
            )
            announce(f"{model} {precision}, batch {batch_size}, {size} tasks: {found[-1]['ratio']['value']:.3f}")
    return found


def _asking_first(graph: OnnxModel, batches: Sequence[Sequence[Encoding]]) -> Arm:
    """An arm that asks a graph for its first task."""
    return lambda: [graph.call(batch, graph.tasks[:1]) for batch in batches]


def _bundles(
    several: Path, singles: Sequence[Path], texts: Sequence[tuple[str, ...]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """One bundle of three tasks against three of one: time, bytes, memory."""
    times = [
        _answering(several, singles, precision, batch_size, texts, arguments.rounds)
        for precision in PRECISIONS
        for batch_size in BATCH_SIZES
    ]
    sizes = {
        precision: {"one": _bytes([several], precision), "each": _bytes(singles, precision)} for precision in PRECISIONS
    }
    memory = {
        precision: {
            "one": serving_bytes([several], precision, texts, arguments.requests),
            "each": serving_bytes(singles, precision, texts, arguments.requests),
        }
        for precision in PRECISIONS
    }
    return {"bundles": times, "bytes": sizes, "memory": memory}


def _answering(
    several: Path,
    singles: Sequence[Path],
    precision: str,
    batch_size: int,
    texts: Sequence[tuple[str, ...]],
    rounds: int,
) -> dict[str, Any]:
    """Texts to answers of all tasks: one bundle against several in turn."""
    batches = _batches(texts, batch_size)
    one = Bundle.load(several, precision, check=False)
    each = [Bundle.load(single, precision, check=False) for single in singles]
    arms: dict[str, Arm] = {
        "one": lambda: [one.predict(batch, batch_size=batch_size) for batch in batches],
        "each": lambda: [bundle.predict(batch, batch_size=batch_size) for batch in batches for bundle in each],
    }
    seconds = time_in_turns(arms, rounds)
    ratio = _ratio(seconds["each"], seconds["one"])
    announce(f"one bundle against {len(singles)}, {precision}, batch {batch_size}: {ratio['value']:.2f} times as fast")
    return {
        "precision": precision,
        "batch_size": batch_size,
        "one_ms": _call_ms(seconds["one"], len(batches)),
        "each_ms": _call_ms(seconds["each"], len(batches)),
        "one_texts_per_second": len(texts) * rounds / sum(seconds["one"]),
        "each_texts_per_second": len(texts) * rounds / sum(seconds["each"]),
        "ratio": ratio,
    }


def time_in_turns(arms: Mapping[str, Arm], rounds: int) -> dict[str, list[float]]:
    """Seconds of every arm in every round, after one round that warms up; the order rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name in rotated(list(arms), number):
            started = time.perf_counter()
            arms[name]()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _batches(rows: Sequence[Any], batch_size: int) -> list[list[Any]]:
    """Neighbours of like length together, as a server's scheduler would put them."""
    order = sorted(rows, key=lambda row: len(row) if not isinstance(row, tuple) else sum(map(len, row)))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _ratio(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    value, low, high = paired_ratio(np.array(slower), np.array(faster))
    return {"value": value, "low": low, "high": high}


def _call_ms(seconds: Sequence[float], calls: int) -> float:
    return 1000 * float(np.median(seconds)) / calls


def _bytes(bundles: Sequence[Path], precision: str) -> int:
    """What a host needs on disk to serve one precision: the other graphs are left out."""
    return sum(
        path.stat().st_size
        for bundle in bundles
        for path in bundle.iterdir()
        if path.suffix != ".onnx" or path.name == f"model.{precision}.onnx"
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    settings = result["settings"]
    worst = max(result["heads"], key=lambda row: float(row["ratio"]["high"]))
    verdict = "within" if worst["ratio"]["high"] <= GOAL else "not within"
    lines = [
        f"{settings['layers']} layers, one thread, {settings['texts']} texts, {settings['rounds']} rounds. "
        f"Measured on {machine_in_words(result)}.",
        "",
        "| one task asked | precision | batch | tasks in the graph | ms per call | alone | time over alone |",
        "|---|---|--:|--:|--:|--:|--:|",
        *(_head_row(row) for row in result["heads"]),
        "",
        f"The dearest case costs {_shown(worst['ratio'], 3)} ({worst['model']}, {worst['precision']}, batch "
        f"{worst['batch_size']}, {worst['tasks']} tasks): {verdict} the limit of {GOAL - 1:.0%}.",
        "",
        "| all three tasks | precision | batch | one bundle, ms | three bundles, ms | times as fast | texts/s |",
        "|---|---|--:|--:|--:|--:|--:|",
        *(_bundle_row(row) for row in result["bundles"]),
        "",
        "| one against three | precision | one bundle | three bundles | share |",
        "|---|---|--:|--:|--:|",
        *(_size_row(what, result[key], name) for key, what in _SIZES.items() for name in PRECISIONS),
    ]
    return "\n".join(lines) + "\n"


_SIZES = {"bytes": "bytes on disk", "memory": "memory of the servers (PSS)"}


def _head_row(row: Mapping[str, Any]) -> str:
    return (
        f"| {row['model']} | {row['precision']} | {row['batch_size']} | {row['tasks']} | {row['call_ms']:.2f} "
        f"| {row['alone_ms']:.2f} | {_shown(row['ratio'], 3)} |"
    )


def _bundle_row(row: Mapping[str, Any]) -> str:
    return (
        f"| bert | {row['precision']} | {row['batch_size']} | {row['one_ms']:.2f} | {row['each_ms']:.2f} "
        f"| {_shown(row['ratio'], 2)} "
        f"| {row['one_texts_per_second']:,.0f} against {row['each_texts_per_second']:,.0f} |"
    )


def _size_row(what: str, sizes: Mapping[str, Any], precision: str) -> str:
    one, each = sizes[precision]["one"], sizes[precision]["each"]
    return f"| {what} | {precision} | {one / 1e6:.1f} MB | {each / 1e6:.1f} MB | {one / each:.2f} |"


def _shown(ratio: Mapping[str, float], digits: int) -> str:
    return f"{ratio['value']:.{digits}f} [{ratio['low']:.{digits}f}, {ratio['high']:.{digits}f}]"


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("model", "layers", "texts", "rounds", "requests")}


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "multitask_bundle.json")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="the encoder of `bert`")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--requests", type=int, default=300, help="to every server before its memory is read")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
