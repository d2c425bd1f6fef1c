"""Golden examples: texts with the ids, logits and answers that every honest copy of a bundle must repeat.

Replaying them on the serving machine catches what a hash cannot: another tokenizer library that cuts words
differently, a CPU whose int8 kernels saturate, a manifest whose labels or thresholds were edited.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.answers import answer
from serving.errors import BundleError, bundle_at_fault
from serving.manifest import GOLDEN_FILE, Artifact, TaskSpec
from serving.model import OnnxModel
from serving.tokenise import Encoding, TextEncoder

SHORT_SET = 8
"""Examples replayed on a machine like the one of the measurements."""
LARGE_SET = 64
"""Examples that a bundle holds at least; replayed wherever there is a doubt (see `serving.certification`)."""
GOLDEN_TOP_K = 5
SCORE_TOLERANCE = 1e-6
ADVICE = "Serve another precision with --precision, or export the bundle again on this machine."

Source = Literal["synthetic", "validation"]


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `golden.json`.

    Attributes:
        texts: each of one string, or two for pairs.
        input_ids: the ids of each text, special tokens included.
        artifacts: precision -> task -> logits [texts, outputs], each text run alone.
        answers: precision -> task -> what these logits say, the five highest scores of each text.
        source: synthetic texts, or real ones of the validation split.
    """

    texts: tuple[tuple[str, ...], ...]
    input_ids: tuple[tuple[int, ...], ...]
    artifacts: dict[str, dict[str, tuple[tuple[float, ...], ...]]]
    answers: dict[str, dict[str, tuple[dict[str, Any], ...]]]
    source: Source = "synthetic"

    def __post_init__(self) -> None:
        """ValueError when the lists do not all have one entry per text."""
        lists: list[Sequence[Any]] = [self.input_ids]
        for of_tasks in self.artifacts.values():
            lists += of_tasks.values()
        for answers in self.answers.values():
            lists += answers.values()
        if not self.texts or any(len(rows) != len(self.texts) for rows in lists):
            raise ValueError("golden examples need at least one text, and ids, logits and answers for each")


def record_golden(
    texts: Sequence[tuple[str, ...]],
    encoder: TextEncoder,
    tasks: Sequence[TaskSpec],
    logits: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    source: Source = "synthetic",
) -> Golden:
    """Golden examples from measured logits.

    Args:
        texts: what to replay later, telling ones first: a loading server may replay only the first few.
        encoder: whose ids are recorded.
        tasks: how the logits are read.
        logits: precision -> task -> [texts, outputs], each text run alone (batch size 1).
        source: where the texts come from.
    """
    answers = {
        precision: {task.name: tuple(answer(row, task, _top_k(task)) for row in of_tasks[task.name]) for task in tasks}
        for precision, of_tasks in logits.items()
    }
    return Golden(
        texts=tuple(texts),
        input_ids=tuple(tuple(encoding.input_ids) for encoding in encoder.encode(texts)),
        artifacts={
            precision: {name: tuple(tuple(map(float, row)) for row in rows) for name, rows in of_tasks.items()}
            for precision, of_tasks in logits.items()
        },
        answers=answers,
        source=source,
    )


def write_golden(folder: Path, golden: Golden) -> None:
    """Write `golden.json`."""
    (folder / GOLDEN_FILE).write_bytes(msgspec.json.encode(golden) + b"\n")


def read_golden(folder: Path) -> Golden:
    """Read `golden.json`; BundleError when it is missing or not one."""
    path = folder / GOLDEN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Golden)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise BundleError(f"{path} cannot be read: {error}. Export the bundle again.") from error


def replay(golden: Golden, model: OnnxModel, artifact: Artifact, num_examples: int | None = None) -> None:
    """Hold a loaded model against its golden examples, each text run alone.

    Ids must be equal, logits within the artifact's tolerance, and the recorded logits must still be read
    as the recorded answers. So a label differs from the recorded one only where the highest logits lie
    within twice the tolerance.

    Args:
        golden: the recorded examples.
        model: the artifact's graph with the bundle's tokenizer and tasks.
        artifact: whose logits and tolerance count.
        num_examples: replay only the first ones; None for all.

    Raises:
        BundleError: naming the first example that differs, and by how much; or the graph fails on them.
        UserError: there was no memory to run them.
    """
    encodings = model.encoder.encode(golden.texts[:num_examples])
    for index, encoding in enumerate(encodings):
        if tuple(encoding.input_ids) != golden.input_ids[index]:
            raise BundleError(
                f"golden example {index} is tokenised into other ids than when the bundle was made. "
                "Install the tested version of 'tokenizers', or export the bundle again."
            )
    logits = _run(model, artifact, encodings)
    for task in model.tasks:
        rows = _recorded(golden.artifacts, artifact, task)
        answers = _recorded(golden.answers, artifact, task)
        _check_logits(logits[task.name], rows[:num_examples], artifact, task)
        _check_answers(rows[:num_examples], answers, task)


def largest_differences(golden: Golden, model: OnnxModel, artifact: Artifact) -> dict[str, float]:
    """Per task the largest difference of logits from the recorded ones, each text run alone.

    Raises:
        BundleError: the examples have no such artifact, or the graph gives no numbers.
    """
    logits = _run(model, artifact, model.encoder.encode(golden.texts))
    recorded = {task.name: np.asarray(_recorded(golden.artifacts, artifact, task)) for task in model.tasks}
    return {name: float(np.abs(logits[name] - rows).max()) for name, rows in recorded.items()}


def _run(model: OnnxModel, artifact: Artifact, encodings: Sequence[Encoding]) -> dict[str, NDArray[np.float32]]:
    with bundle_at_fault(f"{artifact.file} fails on the golden examples"):
        return model.run(encodings)


def _recorded(table: Mapping[str, Mapping[str, Any]], artifact: Artifact, task: TaskSpec) -> Any:
    try:
        return table[artifact.precision][task.name]
    except KeyError:
        raise BundleError(
            f"{GOLDEN_FILE} has no examples of artifact '{artifact.precision}' for task '{task.name}'. "
            "Export the bundle again."
        ) from None


def _check_logits(
    given: NDArray[np.float32], rows: Sequence[tuple[float, ...]], artifact: Artifact, task: TaskSpec
) -> None:
    for index, (given_row, row) in enumerate(zip(given, rows, strict=True)):
        if len(row) != task.num_outputs:
            raise BundleError(
                f"golden example {index} has {len(row)} logits for task '{task.name}', "
                f"expected {task.num_outputs}. Export the bundle again."
            )
        difference = float(np.abs(given_row - np.asarray(row)).max())
        if not difference <= artifact.tolerance:
            raise BundleError(
                f"golden example {index} gives other logits for task '{task.name}' in {artifact.file}: "
                f"they differ by {difference:.3g}, allowed are {artifact.tolerance:.3g}. {ADVICE}"
            )


def _check_answers(rows: Sequence[tuple[float, ...]], answers: Sequence[dict[str, Any]], task: TaskSpec) -> None:
    for index, row in enumerate(rows):
        given = answer(np.asarray(row, dtype=np.float32), task, _top_k(task))
        if not _is_same(given, answers[index]):
            raise BundleError(
                f"golden example {index} is answered {given} for task '{task.name}', but recorded was "
                f"{answers[index]}: labels, thresholds or temperature in the manifest were changed. "
                "Export the bundle again."
            )


def _is_same(given: Any, recorded: Any) -> bool:
    """Whether two answers are equal, their numbers within rounding."""
    if isinstance(given, dict):
        return (
            isinstance(recorded, dict)
            and given.keys() == recorded.keys()
            and all(_is_same(given[key], recorded[key]) for key in given)
        )
    if isinstance(given, float):
        return math.isclose(given, recorded, rel_tol=SCORE_TOLERANCE, abs_tol=SCORE_TOLERANCE)
    return bool(given == recorded)


def _top_k(task: TaskSpec) -> int:
    return min(GOLDEN_TOP_K, task.num_outputs)
