"""From the padded teacher to what is served: what each step is worth, for the built-in run and for larger shapes.

The first waterfall is that of a `compressor demo`, with the quality of every step. The second has a teacher of 12
layers of width 768 (BERT-base) and a student of 4 layers of width 312 (TinyBERT-4) with random weights: it says how
fast such shapes are on this machine, and nothing about quality. Both answer test texts of the built-in corpus with all
CPUs that the process may use.

    python -m benchmarks.waterfall --work runs/waterfall

Writes results/waterfall.json and its block of docs/results.md. On two cores the demo takes about five minutes the
first time, its waterfall half a minute and the larger one some minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from benchmarks.cells import DOCS, HERE, put_block
from compressor.models.checkpoint import load_with_tokenizer, save_checkpoint
from compressor.models.initialise import load_tokenizer
from compressor.models.inputs import describe_inputs
from compressor.models.task_model import TaskModel, new_head
from compressor.pipeline.run import RunFolder
from compressor.pipeline.stages import write_json
from compressor.pipeline.timed_models import load_timed
from compressor.pipeline.waterfall import Contestants, measure
from compressor.recipe import Recipe
from compressor.recipe_file import load_recipe
from compressor.recipes import DEMO
from compressor.report.overview import overview
from compressor.report.table import Table
from compressor.report.waterfall import steps_table, waterfall_view
from export.candidate import Student, export_candidate
from serving.host import available_cpus, describe_host
from serving.manifest import Artifact, InputSpec, Manifest, TaskSpec, write_manifest

NAME = "waterfall"
MAX_LENGTH = 128
TASK = TaskSpec(name="task", type="classification", labels=tuple(map(str, range(12))), metric="accuracy")
CORPUS = HERE.parent / "compressor" / "data" / "corpora" / "supportdesk" / "test.jsonl"
QUICK = {"texts": 16}


@dataclass(frozen=True)
class Shape:
    """Of a BERT encoder."""

    layers: int
    width: int
    heads: int
    inner: int


TEACHER = Shape(layers=12, width=768, heads=12, inner=3072)
STUDENT = Shape(layers=4, width=312, heads=12, inner=1200)
SMALL_TEACHER = Shape(layers=2, width=48, heads=4, inner=96)
SMALL_STUDENT = Shape(layers=1, width=24, heads=2, inner=48)


def main(given: Sequence[str] | None = None) -> None:
    """Run both waterfalls, write JSON and a block of the docs."""
    arguments = _parse(given)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    report = RunFolder.open(arguments.work, recipe, stages=arguments.stages).run_all()
    shapes = (SMALL_TEACHER, SMALL_STUDENT) if arguments.quick else (TEACHER, STUDENT)
    texts = read_texts(CORPUS, arguments.texts)
    with tempfile.TemporaryDirectory() as folder:
        random = random_waterfall(Path(folder), *shapes, texts=texts, tokenizer=_tokenizer_of(recipe))
    needed = ("name", "tasks", "teacher", "student", "artifacts", "measurements", "waterfall")
    result = {
        "built_in": {name: report[name] for name in needed},
        "random": random,
        "shapes": [vars(shape) for shape in shapes],
        "host": describe_host(),
        "torch": torch.__version__,
    }
    write_json(arguments.output, result)
    text = markdown(result)
    put_block(arguments.docs, NAME, text)
    print(text)


def random_waterfall(
    folder: Path, teacher: Shape, student: Shape, *, texts: Sequence[tuple[str, ...]], tokenizer: str
) -> dict[str, Any]:
    """The waterfall of two random models.

    Args:
        folder: for their checkpoints and the bundle.
        teacher: its shape.
        student: its shape.
        texts: to answer.
        tokenizer: of both.
    """
    for name, shape in (("teacher", teacher), ("student", student)):
        _save_random(folder / name, shape, tokenizer)
    _bundle(folder / "student", folder / "bundle")
    inputs = inputs_of(folder / "student")
    found = Contestants(
        [load_timed(folder / "teacher", inputs)], load_timed(folder / "student", inputs), folder / "bundle"
    )
    return measure(found, texts, cpus=available_cpus())


def _save_random(folder: Path, shape: Shape, tokenizer: str) -> None:
    own = load_tokenizer(tokenizer)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(own),
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=512,
    )
    encoder = AutoModelForSequenceClassification.from_config(config).base_model
    save_checkpoint(folder, TaskModel(encoder, {TASK.name: new_head(config, TASK)}, [TASK]), own)


def _bundle(checkpoint: Path, folder: Path) -> None:
    """The graphs with a manifest that claims nothing; int8 is what is served."""
    timed = load_timed(checkpoint, inputs_of(checkpoint))
    student = Student(timed.model, timed.model.config, checkpoint, [TASK], timed.encoder.inputs)
    candidate = export_candidate(student, folder, precisions=("fp32", "int8"))
    artifacts = tuple(
        Artifact(
            precision=graph.precision,
            file=graph.file,
            sha256=graph.sha256,
            bytes=graph.bytes,
            opset=graph.opset,
            ir_version=graph.ir_version,
            batch_invariant=graph.precision == "fp32",
            passed=True,
        )
        for graph in candidate.graphs
    )
    manifest = Manifest(
        name="random",
        version="0",
        tasks=candidate.tasks,
        inputs=candidate.inputs,
        artifacts=artifacts,
        default_artifact="int8",
    )
    write_manifest(folder, manifest)


def inputs_of(checkpoint: Path) -> InputSpec:
    """How texts become a checkpoint's inputs."""
    model, tokenizer = load_with_tokenizer(checkpoint)
    return describe_inputs(model, tokenizer, max_length=MAX_LENGTH, text_columns=("text",))


def read_texts(path: Path, number: int) -> list[tuple[str, ...]]:
    """Texts of a .jsonl file, evenly spread."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(json.loads(line)["text"],) for line in lines[:: max(1, len(lines) // number)][:number]]


def _tokenizer_of(recipe: Recipe) -> str:
    return recipe.teacher_of(next(iter(recipe.tasks))).models[0]


def markdown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    host, report = result["host"], result["built_in"]
    view = overview(report)
    found = waterfall_view(report, view)
    random = waterfall_view({**report, "waterfall": result["random"]}, view)
    if found is None or random is None:
        raise RuntimeError("a waterfall was asked for and left out")
    teacher, student = (f"{shape['layers']} layers of width {shape['width']}" for shape in result["shapes"])
    plain = steps_table(result["random"]) or Table((), ())
    lines = [
        f"{host['cpu_model']}, {host['available_cpus']} CPUs, torch {result['torch']}, ONNX Runtime "
        f"{host['versions']['onnxruntime']}. {found.conditions}",
        "",
        *_block(f"The built-in run `{report['name']}`", found.table, found.limits, found.seen, found.notes),
        "",
        *_block(
            f"A teacher of {teacher} and a student of {student}: random weights, so speed only",
            plain,
            random.limits,
            random.seen,
            random.notes,
        ),
    ]
    return "\n".join(lines) + "\n"


def _block(title: str, steps: Table, limits: Table | None, seen: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    yield f"**{title}**"
    yield ""
    yield from _rows(steps)
    yield ""
    if limits is not None:
        yield from _rows(limits)
        yield ""
    yield from (f"- {sentence}" for sentence in (*seen, *notes))


def _rows(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'---|' * table.text_columns}{'--:|' * (len(table.columns) - table.text_columns)}"
    yield from (f"| {' | '.join(row)} |" for row in table.rows)


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=DEMO, help="of the run with quality")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("runs/waterfall"), help="the run folder")
    parser.add_argument("--stages", type=Path, help="a stage store that may have the run's stages already")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "waterfall.json")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the page that gets the tables")
    parser.add_argument("--texts", type=int, default=64, help="that the random models answer")
    parser.add_argument("--quick", action="store_true", help="tiny random models, to see that it runs")
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
