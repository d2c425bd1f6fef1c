"""A toy teacher, a toy student and a bundle of it: what the timing stages read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from compressor.data.splits import Split, TaskData
from compressor.models.checkpoint import save_checkpoint
from compressor.models.initialise import load_tokenizer, pretrained_model
from compressor.pipeline.timed_models import load_timed
from export.candidate import Student, export_candidate
from serving.manifest import Artifact, InputSpec, Manifest, TaskSpec, write_manifest

TASK = TaskSpec(name="topic", type="classification", labels=("billing", "delivery", "account"), metric="accuracy")


@dataclass(frozen=True)
class Finished:
    """The folders of a finished run."""

    teacher: Path
    student: Path
    bundle: Path
    data: dict[str, TaskData]


@pytest.fixture(scope="session")
def finished(
    checkpoint: Callable[..., Path],
    make_rows: Callable[..., list[dict[str, object]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """Random weights; for reading only."""
    folder = tmp_path_factory.mktemp("finished")
    base = str(checkpoint())
    for name, layers in (("teacher", 4), ("student", 1)):
        save_checkpoint(folder / name, pretrained_model(base, [TASK], layers=layers, seed=0), load_tokenizer(base))
    inputs = InputSpec(
        names=("input_ids", "attention_mask", "token_type_ids"), pad_id=0, max_length=24, text_columns=("text",)
    )
    student = load_timed(folder / "student", inputs)
    exported = Student(student.model, student.model.config, folder / "student", [TASK], student.encoder.inputs)
    candidate = export_candidate(exported, folder / "bundle", precisions=("fp32", "int8"))
    artifacts = tuple(
        Artifact(
            precision=graph.precision, file=graph.file, sha256=graph.sha256, bytes=graph.bytes, opset=graph.opset,
            ir_version=graph.ir_version, batch_invariant=graph.precision == "fp32", passed=True,
        )
        for graph in candidate.graphs
    )  # fmt: skip
    manifest = Manifest(
        name="toy", version="1", tasks=candidate.tasks, inputs=candidate.inputs, artifacts=artifacts,
        default_artifact="int8",
    )  # fmt: skip
    write_manifest(folder / "bundle", manifest)
    rows = make_rows(40)
    split = Split([(str(row["text"]),) for row in rows], np.zeros(len(rows), dtype=np.int64))
    return Finished(
        folder / "teacher", folder / "student", folder / "bundle", {"topic": TaskData(TASK, {"test": split}, ("text",))}
    )
