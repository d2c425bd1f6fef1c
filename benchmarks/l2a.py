r"""L2A (our reading) in the small: few labels of one domain, many of another, by `compressor compare`.

Two pairs of domains: (a) intents of supportdesk's bank texts, the other three domains as the source, with 5, 10 and 20
labels per intent; (b) kitchen reviews with 50 to 500 labels, book reviews as the source. The arms are those of
`benchmarks/recipes/l2a_arms.yaml`, all with the same teacher (source, then target), initial student and optimizer
steps. Each seed draws its own labelled rows and data order. Nothing is chosen on validation or test. The masked
language model is adapted once per pair to the source's texts alone, so that no seed waits for its own. What is done is
kept: the same command continues.

    python -m benchmarks.l2a --data DATA --work runs/l2a

What else was tried stands in `l2a_variants.yaml`: a comparison of its own, in which every variant stands beside the arm
of the same letter. Stages are shared, so what is done is not done again:

    python -m benchmarks.l2a --data DATA --work runs/l2a --only bank --labels 60 \
        --arms benchmarks/recipes/l2a_variants.yaml
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cells import DOCS, HERE, draw_rows, dtype_here, put_block
from benchmarks.comparisons import Kept, compare_and_keep, recipe_path
from benchmarks.label_curves import curves, variants
from benchmarks.label_plot import DRAWING, draw
from benchmarks.right_answers import RIGHT, read_right
from compressor.data.builtin import CORPORA
from compressor.data.prepare import prepare
from compressor.data.splits import TRAIN, UNLABELLED
from compressor.distillation.presets import parse_method
from compressor.models.masked_lm import MASKED_LM_FILE, Adaptation, adapt_masked_lm, epochs_for
from compressor.progress import announce
from compressor.recipe import Recipe
from compressor.recipe_file import load_recipe

ARMS = HERE / "recipes" / "l2a_arms.yaml"
LABELS = {"bank": (60, 120, 240), "kitchen": (50, 100, 200, 500)}
MAIN = "k l2a:kd"
REFILLING = {"refill", "l2a"}
FILTERS = {"bank": {"min_confidence": 0.3, "min_margin": 0.1}, "kitchen": {"min_confidence": 0.6, "min_margin": 0.2}}
"""What the teacher must be sure of: of twelve intents half of what it must be of two sentiments."""
SOURCE_ROWS = 2000
QUICK_ROWS = 24
QUICK_OVERRIDES = ("training.steps=2", "teacher.epochs=1", "student.layers=1")


def main(given: Sequence[str] | None = None) -> None:
    """Compare at every number of labels; exit 1 at the end if one comparison failed."""
    arguments = _parse(given)
    wanted = [(name, rows) for name in arguments.only for rows in arguments.labels or LABELS[name]]
    failed = []
    for name, rows in wanted:
        if not _compared(arguments, name, rows):
            failed.append(f"{name} with {rows}")
        put_block(arguments.docs, _called(arguments, name).replace("_", "-"), _tables(arguments, name))
        draw(arguments.results, arguments.docs.with_name(DRAWING))
    if failed:
        sys.exit(f"these comparisons failed: {', '.join(failed)}. The same command continues them.")


def _compared(arguments: argparse.Namespace, name: str, rows: int) -> bool:
    announce(f"{name}: comparing the arms of {arguments.arms} with {rows} labels")
    kept = Kept(arguments.results, docs=None)
    called = _called(arguments, name)
    output = arguments.work / f"{called}-{rows}"
    title, options = f"{called}_{rows}", _options(arguments, name, rows)
    return compare_and_keep(f"l2a_{name}", options, output, kept, called=title, further=_right)


def _right(comparison: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    return {RIGHT: read_right(comparison, result)}


def _is_other(arguments: argparse.Namespace) -> bool:
    """Whether other arms than those of the method were asked for."""
    return bool(arguments.arms.resolve() != ARMS.resolve())


def _called(arguments: argparse.Namespace, name: str) -> str:
    """The comparison of a pair; that of other arms is one of its own."""
    return f"l2a_{name}_{arguments.arms.stem.removeprefix('l2a_')}" if _is_other(arguments) else f"l2a_{name}"


def _tables(arguments: argparse.Namespace, name: str) -> str:
    if not _is_other(arguments):
        return curves(arguments.results, _called(arguments, name))
    return variants(arguments.results, _called(arguments, name), plain=list(yaml.safe_load(ARMS.read_text())))


def _options(arguments: argparse.Namespace, name: str, rows: int) -> list[str]:
    """Options of `compressor compare`."""
    recipe = load_recipe(recipe_path(f"l2a_{name}"))
    overrides = [f"training.dtype={arguments.dtype}", f"training.threads={arguments.threads}", *arguments.overrides]
    sizes = {"validation": arguments.validation_rows, "test": arguments.test_rows}
    overrides += drawn_places(recipe, arguments.data, arguments.work, sizes, source_rows=arguments.source_rows)
    recipe = load_recipe(recipe_path(f"l2a_{name}"), overrides)
    arms = _arms(arguments, name, _masked_lm(arguments, name, recipe), recipe)
    options = ["--arms", str(arms), "--seeds", str(arguments.seeds), "--jobs", str(arguments.jobs)]
    options += ["--train-rows", str(rows), "--stages", str(arguments.work / f"stages-{name}"), "--main", MAIN]
    return [*options, *(part for override in overrides for part in ("--set", override))]


def drawn_places(
    recipe: Recipe, data: Path, work: Path, evaluation: Mapping[str, int], *, source_rows: int
) -> list[str]:
    """Settings of a recipe for rows that are drawn once, of the target and its source; none for a built-in corpus.

    Args:
        recipe: of one task.
        data: a folder that holds a folder of splits per data set.
        work: where the drawn rows are kept.
        evaluation: rows of validation and test, at most.
        source_rows: of the source, at most.
    """
    ((task, settings),) = recipe.tasks.items()
    if settings.data in CORPORA or settings.source is None:
        return []
    own = {"train": None, **evaluation}
    source = {"train": source_rows, "validation": 1, "test": 1}
    found = []
    for key, place, sizes in (("data", settings.data, own), ("source.data", settings.source.data, source)):
        called = "-".join(map(str, (Path(place).name, *sizes.values())))
        rows = draw_rows(data / Path(place).name, work / called, sizes)
        found.append(f"tasks.{task}.{key}={rows.resolve()}")
    return found


def _masked_lm(arguments: argparse.Namespace, name: str, recipe: Recipe) -> Path:
    """A masked language model that has read the source's texts."""
    folder: Path = arguments.work / f"masked-lm-{name}"
    if not (folder / MASKED_LM_FILE).is_file():
        (task,) = prepare(recipe.tasks).values()
        announce(f"{name}: adapting a masked language model to {len(task.splits['source'])} source texts")
        texts = task.splits["source"].texts
        epochs = epochs_for(arguments.masked_lm_steps, len(texts))
        settings = Adaptation(epochs, recipe.max_length, recipe.seed)
        adapt_masked_lm(recipe.student_model(), texts, settings, folder=folder)
    return folder


def _unlabelled(arguments: argparse.Namespace, name: str, recipe: Recipe) -> Path:
    """All training texts of the target, as texts without label; a seed's labelled ones are among them."""
    path: Path = arguments.work / f"unlabelled-{name}.jsonl"
    if not path.is_file():
        (task,) = prepare(recipe.tasks).values()
        rows = (dict(zip(task.text_columns, text, strict=True)) for text in task.splits[TRAIN].texts)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
    return path


def _arms(arguments: argparse.Namespace, name: str, masked_lm: Path, recipe: Recipe) -> Path:
    """The arms with that masked language model, the pair's limits, and the target's texts where they are read."""
    arms = yaml.safe_load(arguments.arms.read_text())
    if _is_other(arguments):
        letters = {label.split()[0] for label in arms}
        plain = yaml.safe_load(ARMS.read_text())
        arms = {label: arm for label, arm in plain.items() if label.split()[0] in letters} | arms
    (task,) = recipe.tasks
    for arm in arms.values():
        arm["method"] = parse_method(arm["method"])
        if UNLABELLED in arm.get("set", {}):
            arm["set"] = {f"tasks.{task}.{UNLABELLED}": str(_unlabelled(arguments, name, recipe).resolve())}
        for method, knobs in arm["method"].items():
            if method in REFILLING:
                knobs["mlm"] = str(masked_lm.resolve())
            if method in REFILLING or "nearest" in knobs:
                knobs |= FILTERS[name]
    path: Path = arguments.work / f"{arguments.arms.stem}-{masked_lm.name}.yaml"
    path.write_text(yaml.safe_dump(arms, sort_keys=False))
    return path


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder that holds amazon_kitchen/train.jsonl and so on"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/l2a"), help="keeps rows, stages and comparisons")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--only", nargs="+", default=list(LABELS), choices=list(LABELS), metavar="NAME")
    parser.add_argument("--labels", type=int, nargs="+", default=None, help="labelled rows; default: each pair's own")
    parser.add_argument("--arms", type=Path, default=ARMS, help="as compare takes them")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--dtype", default=dtype_here(), choices=("fp32", "bf16"), help="one for every cell")
    parser.add_argument("--validation-rows", type=int, default=50, help="looked at for the curves, and nothing else")
    parser.add_argument("--test-rows", type=int, default=500)
    parser.add_argument("--source-rows", type=int, default=SOURCE_ROWS)
    parser.add_argument("--masked-lm-steps", type=int, default=650, help="of 16 texts, in whole passes")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.quick:
        arguments.seeds, arguments.labels, arguments.masked_lm_steps = 2, [QUICK_ROWS], 1
        arguments.validation_rows = arguments.test_rows = arguments.source_rows = QUICK_ROWS
        arguments.overrides += QUICK_OVERRIDES
    return arguments


if __name__ == "__main__":
    main()
