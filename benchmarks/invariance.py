"""What it costs that an answer does not depend on its neighbours: the choices of serving, side by side.

Two fine-tuned models of MiniLM's shape, the recipe's student (3 layers) and its teacher (6 layers), are exported in
every precision. Each test text is answered alone and, in several random orders, in calls of eight; counted are the
logits and answers that change. Times are of one thread, of one text and of eight, all choices taking turns; a lane
answers eight texts by eight calls. Ratios are to dynamic int8 in one call.

    python -m benchmarks.invariance --work runs/invariance

The trainings take a few minutes (`--student NAME=FOLDER` takes finished ones), the export a minute, a round 40 s.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import HERE, machine, machine_in_words, put_block
from compressor.data.splits import TEST, TRAIN, TaskData
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.inputs import describe_inputs
from compressor.pipeline.learning import load_data
from compressor.pipeline.run import RunFolder
from compressor.pipeline.stages import write_json
from compressor.progress import announce
from compressor.recipe import Recipe
from compressor.recipe_file import load_recipe
from compressor.recipes import DEMO
from compressor.tasks.registry import TASKS
from export.benchmark import Pace, Variant, ratio_between, run_benchmark
from export.candidate import Candidate, Student, export_candidate
from export.quantise.material import Material, Quantising
from export.runners import Inputs, Logits, Runner, session_runner
from export.sample import Sample
from serving.answers import decide
from serving.errors import UserError
from serving.manifest import TaskSpec
from serving.session import create_session
from serving.tokenise import TOKENIZER_FILE, TextEncoder

NAME = "invariance"
DOCS = HERE.parent / "docs" / "export.md"
BASELINE = "int8"
LANES = "int8 in lanes"
PRECISIONS = ("fp32", BASELINE, "int8_static", "int8_weights")
WORDS = {
    BASELINE: "int8 (dynamic), eight texts per call",
    LANES: "int8 (dynamic), one text per call and lane",
    "int8_static": "int8_static",
    "int8_weights": "int8_weights (accuracy level 4)",
    "fp32": "fp32",
}
COMPANY = 8
QUICK = {"texts": 12, "timed_texts": 8, "orders": 1, "rounds": 6}


@dataclass(frozen=True)
class Exported:
    """One model in every precision.

    Attributes:
        folder: of the candidate.
        candidate: what is in it.
        encoder: tokenises for it.
        task: that it answers.
    """

    folder: Path
    candidate: Candidate
    encoder: TextEncoder
    task: TaskSpec

    def runner(self, precision: str) -> Runner:
        """One graph on one thread."""
        graph = next(graph for graph in self.candidate.graphs if graph.precision == precision)
        return session_runner(create_session(self.folder / graph.file), [self.task])

    def bytes(self, precision: str) -> int:
        """Size of one graph."""
        return next(graph.bytes for graph in self.candidate.graphs if graph.precision == precision)


def main(given: Sequence[str] | None = None) -> None:
    """Train or take the models, export, compare, time, and write JSON and the table."""
    arguments = _parse(given)
    recipe = load_recipe(arguments.recipe)
    folder = RunFolder.open(arguments.work, recipe, stages=arguments.stages)
    folder.run(folder.pipeline.data)
    (data,) = load_data(folder.pipeline.path(folder.pipeline.data)).values()
    students = dict(_named(value) for value in arguments.student) or _trained(folder)
    result: dict[str, Any] = {**machine(), "settings": _settings(arguments, recipe), "students": {}}
    for name, checkpoint in students.items():
        with tempfile.TemporaryDirectory() as scratch:
            exported = export(checkpoint, data, Path(scratch), recipe.max_length)
            announce(f"{name}: comparing and timing")
            result["students"][name] = measure_choices(exported, data, arguments)
        write_json(arguments.output, result)
    text = markdown(result)
    put_block(arguments.docs, NAME, text)
    print(text)


def _trained(folder: RunFolder) -> dict[str, Path]:
    """The recipe's student and teacher, trained where they are not there yet."""
    pipeline = folder.pipeline
    (teacher,) = pipeline.teachers.values()
    folder.run(pipeline.student, teacher)
    return {"student": pipeline.path(pipeline.student), "teacher": pipeline.path(teacher)}


def _named(value: str) -> tuple[str, Path]:
    name, sign, folder = value.partition("=")
    if not sign:
        raise UserError(f"--student is '{value}', expected NAME=FOLDER. Say how the model is called in the table.")
    return name, Path(folder)


def export(checkpoint: Path, data: TaskData, folder: Path, max_length: int) -> Exported:
    """A checkpoint in every precision; ranges come from training texts."""
    model, tokenizer = load_with_tokenizer(checkpoint)
    inputs = describe_inputs(model, tokenizer, max_length=max_length, text_columns=data.text_columns)
    student = Student(model, model.config, checkpoint, model.tasks, inputs)
    rows = data.splits[TRAIN]
    if rows.labels is None:
        raise UserError(f"the training rows of task '{data.task.name}' have no labels. Name a recipe with labels.")
    metric = TASKS[data.task.type].metrics[data.task.metric]
    material = Material(calibration={data.task.name: Sample(rows.texts, rows.labels, metric)})
    candidate = export_candidate(student, folder, precisions=PRECISIONS, quantising=Quantising(material=material))
    encoder = TextEncoder.load(folder / TOKENIZER_FILE, candidate.inputs)
    return Exported(folder, candidate, encoder, candidate.tasks[0])


def measure_choices(exported: Exported, data: TaskData, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every choice: what company changes, the metric, the size and the time over dynamic int8's."""
    rows = data.splits[TEST]
    texts, labels = list(rows.texts[: arguments.texts]), np.asarray(rows.labels)[: arguments.texts]
    metric = TASKS[data.task.type].metrics[data.task.metric]
    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        run = exported.runner(precision)
        alone = answer_alone(run, exported, texts)
        company = changed_by_company(run, exported, texts, alone, arguments.orders)
        score = float(metric(labels, decide(alone, exported.task)))
        found[precision] = {**company, "metric": score, "bytes": exported.bytes(precision)}
    nothing = {"largest": 0.0, "mean": 0.0, "changed": 0, "texts": len(texts)}  # there is no company in a lane
    found[LANES] = {**found[BASELINE], **nothing}
    times = time_choices(exported, texts[: arguments.timed_texts], arguments.rounds)
    return {name: {**found[name], "time": times[name]} for name in WORDS}


def answer_alone(run: Runner, exported: Exported, texts: Sequence[tuple[str, ...]]) -> NDArray[np.float32]:
    """Logits of each text in a call of its own, [texts, outputs]."""
    encodings = exported.encoder.encode(texts)
    return np.concatenate([run(exported.encoder.batch([encoding]))[exported.task.name] for encoding in encodings])


def changed_by_company(
    run: Runner,
    exported: Exported,
    texts: Sequence[tuple[str, ...]],
    alone: NDArray[np.float32],
    orders: int,
) -> dict[str, Any]:
    """Largest and mean change of a logit, and how many texts were answered otherwise at least once.

    Args:
        run: a graph.
        exported: tokenizer and task.
        texts: answered in calls of eight, in so many random orders.
        alone: their logits in calls of their own.
        orders: how many.
    """
    encodings, generator = exported.encoder.encode(texts), np.random.default_rng(0)
    differences, has_changed = [], np.zeros(len(texts), dtype=bool)
    for _ in range(orders):
        order = generator.permutation(len(texts))
        for start in range(0, len(order), COMPANY):
            rows = order[start : start + COMPANY]
            logits = run(exported.encoder.batch([encodings[row] for row in rows]))[exported.task.name]
            differences.append(np.abs(logits - alone[rows]).ravel())
            same = np.asarray(decide(logits, exported.task) == decide(alone[rows], exported.task))
            has_changed[rows] |= ~(same.all(axis=1) if same.ndim > 1 else same)
    values = np.concatenate(differences)
    changed = int(has_changed.sum())
    return {"largest": float(values.max()), "mean": float(values.mean()), "changed": changed, "texts": len(texts)}


def time_choices(exported: Exported, texts: Sequence[tuple[str, ...]], rounds: int) -> dict[str, Any]:
    """Per choice and batch size, how many times as long as dynamic int8 it takes, with the interval over the rounds."""
    runs = {name: exported.runner(name) for name in PRECISIONS}
    runs[LANES] = one_by_one(runs[BASELINE])
    variants = [Variant(name, "onnxruntime", name, "cpu", 1, run) for name, run in runs.items()]
    batch_sizes = (1, COMPANY)
    pace = Pace(rounds=rounds)
    measured = run_benchmark(variants, exported.encoder, texts, batch_sizes=batch_sizes, pace=pace)
    by_place = {(row.variant, row.batch_size): row for row in measured}
    return {
        name: {str(size): _ratio(by_place[name, size], by_place[BASELINE, size]) for size in batch_sizes}
        for name in runs
    }


def _ratio(own: Any, baseline: Any) -> dict[str, float]:
    """Own time over the baseline's."""
    ratio = ratio_between(own, baseline)
    return {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "p50_ms": own.p50_ms}


def one_by_one(run: Runner) -> Runner:
    """The rows of a batch in calls of their own, each as long as its own text: what one lane does."""

    def run_rows(inputs: Inputs) -> Logits:
        lengths = inputs["attention_mask"].sum(axis=1)
        parts = [
            run({name: array[row : row + 1, : lengths[row]] for name, array in inputs.items()})
            for row in range(len(lengths))
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run_rows


def markdown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    settings = result["settings"]
    lines = [
        f"{machine_in_words(result)}; recipe `{settings['recipe']}`, {settings['texts']} test texts alone and in "
        f"{settings['orders']} random orders of calls of eight; times of one thread over {settings['rounds']} rounds "
        "as multiples of dynamic int8's, with 95% intervals.",
    ]
    for name, choices in result["students"].items():
        lines += ["", *_table(name, choices)]
    return "\n".join(lines) + "\n"


def _table(title: str, choices: Mapping[str, Any]) -> Iterator[str]:
    columns = ("largest change of a logit", "answers changed", "metric alone", "MB", "time, one text", "time, eight")
    yield f"| {title} | {' | '.join(columns)} |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, found in choices.items():
        cells = (
            f"{found['largest']:.2g}",
            f"{found['changed']} of {found['texts']}",
            f"{found['metric']:.3f}",
            f"{found['bytes'] / 1e6:.1f}",
            *(_times(found["time"][size]) for size in ("1", str(COMPANY))),
        )
        yield f"| {WORDS[name]} | {' | '.join(cells)} |"


def _times(found: Mapping[str, float]) -> str:
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _settings(arguments: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    names = ("texts", "timed_texts", "orders", "rounds")
    return {"recipe": recipe.name, **{name: getattr(arguments, name) for name in names}}


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=DEMO, help="of one task")
    parser.add_argument("--work", type=Path, default=Path("runs/invariance"), help="run folder")
    parser.add_argument("--stages", type=Path, help="a stage store that may have the trainings already")
    parser.add_argument("--student", action="append", default=[], metavar="NAME=FOLDER", help="a finished model")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "invariance.json")
    parser.add_argument("--docs", type=Path, default=DOCS, help="page that gets the table")
    parser.add_argument("--texts", type=int, default=768, help="test texts that are compared")
    parser.add_argument("--timed-texts", type=int, default=64, help="test texts that are timed")
    parser.add_argument("--orders", type=int, default=4, help="random orders of the texts")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing")
    parser.add_argument("--quick", action="store_true", help="few texts, to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
