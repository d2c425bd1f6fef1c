"""The recipe: what to do, typed and validated. Every knob is documented here, once.

`compressor.recipe_file` reads it from YAML; `compressor recipe --example` prints a commented one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from compressor.distillation.presets import PRESETS, check_early_stopping, parse_method

Scalar = str | int | float | bool
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Settings(BaseModel):
    """Base of every section: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingSettings(Settings):
    """How a model is trained; the controls of a report use the same values as its student."""

    epochs: Positive = Field(5, description="passes over the training rows")
    learning_rate: PositiveFloat = Field(2e-4, description="peak learning rate of AdamW")
    batch_size: Positive = Field(16, description="rows per micro-batch")
    gradient_accumulation: Positive = Field(1, description="micro-batches per optimizer step")
    warmup: Share = Field(0.1, description="share of the steps with a rising learning rate")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="of AdamW")
    max_grad_norm: PositiveFloat = Field(1.0, description="gradients are clipped to this norm")
    early_stopping: Positive | None = Field(
        None,
        description="stop after this many epochs without a better validation metric and keep the best epoch; "
        "off: all epochs are run and the last weights are kept",
    )
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware has it and a short calibration says it is faster"
    )
    device: str = Field("auto", description="auto, cpu, cuda, mps, ... (what accelerate knows)")
    threads: Positive | None = Field(None, description="CPU threads of training; default: all available")
    report_to: list[str] = Field([], description="trackers of transformers: tensorboard, wandb, ...")
    checkpoint_seconds: PositiveFloat = Field(60.0, description="time between checkpoints; never changes the result")


class TeacherSettings(TrainingSettings):
    """The teacher: trained here, an existing fine-tuned checkpoint, or stored predictions.

    The training keys stand here too; those that are set override the `training` section.
    """

    model: str | list[str] | None = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="checkpoint: folder, installed package or hub id; with train: false also a list of fine-tuned "
        "checkpoints, whose probabilities are averaged",
    )
    train: bool = Field(True, description="false: take the fine-tuned checkpoint as it is, labels matched by name")
    labels: list[str] | None = Field(
        None, description="names of the checkpoint's outputs in order, where its config has none"
    )
    predictions: Path | None = Field(
        None,
        description="stored teacher probabilities (table with the text and one column per label); no model",
    )
    ensemble: Positive = Field(
        1,
        description="number of teachers that are trained, from the same initial weights with other data orders; the "
        "student learns from the mean of their probabilities",
    )

    @model_validator(mode="after")
    def _an_ensemble_can_be_made(self) -> TeacherSettings:
        if self.ensemble > 1 and (self.predictions is not None or not self.train):
            what = "teacher.predictions" if self.predictions is not None else "train: false"
            raise ValueError(
                f"ensemble is {self.ensemble}, but {what} trains no teacher. Leave it out, or give train: false and a "
                "list of fine-tuned checkpoints as model"
            )
        if isinstance(self.model, list) and self.predictions is None:
            if self.train:
                raise ValueError(
                    "model is a list, but only one checkpoint can be trained. Set train: false to take all as they "
                    "are, or give one and set ensemble"
                )
            if not self.model:
                raise ValueError("model is an empty list; give at least one checkpoint")
        return self

    @property
    def models(self) -> list[str]:
        """The checkpoints that are read, one or several; none for stored predictions."""
        if self.predictions is not None or self.model is None:
            return []
        return list(self.model) if isinstance(self.model, list) else [self.model]

    @property
    def num_members(self) -> int:
        """How many models answer together."""
        return max(self.ensemble, len(self.models), 1)

    @model_serializer(mode="wrap")
    def _without_inherited_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        inherited = TrainingSettings.model_fields.keys() - self.model_fields_set
        return {key: value for key, value in handler(self).items() if key not in inherited}

    def training(self, defaults: TrainingSettings) -> TrainingSettings:
        """The recipe's training settings with every training key that is set here."""
        keys = TrainingSettings.model_fields.keys() & self.model_fields_set
        return defaults.model_copy(update={key: getattr(self, key) for key in keys})


class TaskSettings(Settings):
    """One task: where its rows are and which columns hold what."""

    data: str = Field(
        description="built-in name, .csv/.tsv/.jsonl/.parquet file, folder of splits, or hub id org/name:config@rev"
    )
    text: str | list[str] | None = Field(None, description="text column, or two columns for text pairs")
    label: str | None = Field(None, description="label column")
    where: dict[str, Scalar | list[Scalar]] = Field({}, description="keep only rows with these values")
    unlabelled: str | None = Field(None, description="file of texts for the soft loss only")
    type: Literal["classification", "multilabel", "regression"] | None = Field(
        None, description="inferred from the labels when left out"
    )
    metric: str | None = Field(None, description="what the task is judged by; a default per type")
    train_rows: Positive | None = Field(
        None,
        description="use only so many labelled training rows, drawn in the labels' proportions with at least one row "
        "of every label; default: all",
    )
    train_rows_seed: int = Field(0, ge=0, description="which rows train_rows draws")
    teacher: TeacherSettings | None = Field(None, description="this task's own teacher; default: the recipe's")

    @field_validator("text")
    @classmethod
    def _one_or_two_columns(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) not in (1, 2):
            raise ValueError(f"expected one column or two for pairs, got {len(value)}")
        return value


class StudentSettings(Settings):
    """The student: some layers of the pretrained checkpoint, or another checkpoint."""

    model: str | None = Field(None, description="checkpoint to start from; default: the teacher's")
    layers: Positive | list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="number of layers, evenly spread, or the layers themselves (from 0); default: all"
    )
    init: Literal["pretrained", "teacher"] = Field(
        "pretrained",
        description="copy weights from the pretrained checkpoint, or from the fine-tuned teacher",
    )


class ExportSettings(Settings):
    """What the bundle holds."""

    precisions: list[Literal["fp32", "int8"]] = Field(["fp32", "int8"], min_length=1, description="artifacts")
    opset: Annotated[int, Field(ge=14)] | None = Field(None, description="ONNX opset; default: a tested one")
    golden: Literal["synthetic", "validation"] = Field(
        "synthetic", description="texts of the golden examples: made up, or real ones from validation"
    )

    @field_validator("precisions")
    @classmethod
    def _fp32_is_the_reference(cls, value: list[str]) -> list[str]:
        if "fp32" not in value:
            raise ValueError("fp32 is missing: it is what the other precisions are checked against; add it")
        return value


class GateSettings(Settings):
    """Limits; a gate whose interval is not within its limit ends the run with exit code 3."""

    export_logit_difference: PositiveFloat = Field(1e-4, description="fp32 graph against torch, per logit")
    quantisation_metric_drop: PositiveFloat = Field(
        0.01, description="artifact against the fp32 student on validation, absolute, paired"
    )
    teacher_metric_drop: PositiveFloat | None = Field(
        None, description="student against teacher on validation, absolute, paired; off unless set"
    )
    allow_inconclusive: bool = Field(
        False, description="accept gates that the validation split is too small to decide (--allow-inconclusive)"
    )


class BenchmarkSettings(Settings):
    """What is timed."""

    batch_sizes: list[Positive] = Field([1, 8], min_length=1, description="texts per call")
    threads: list[Positive | Literal["all"]] = Field([1, "all"], min_length=1, description="CPU threads per call")
    devices: Literal["auto", "cpu"] = Field("auto", description="auto: the CPU, and CUDA where there is a GPU")
    texts: Positive = Field(128, description="evaluation texts that are timed in every round")
    rounds: Annotated[int, Field(ge=3)] = Field(5, description="interleaved rounds over all variants")


class Recipe(Settings):
    """A whole run."""

    name: str = Field(description="name of the run and of its bundle")
    tasks: dict[str, TaskSettings] = Field(min_length=1, description="one task, or several on one student")
    max_length: Annotated[int, Field(ge=8)] = Field(128, description="tokens per text, the same everywhere")
    teacher: TeacherSettings = TeacherSettings()
    student: StudentSettings = StudentSettings()
    method: dict[str, dict[str, Any]] = Field(
        {"kd": {}},
        description=f"{', '.join(PRESETS)}: a name, a mapping of names to knobs, a list where methods compose, "
        "or a text such as kd+swa:every=1",
    )
    training: TrainingSettings = TrainingSettings()
    seed: int = Field(0, ge=0, description="of initial heads, data order and dropout")
    order_seed: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="of the students' data order and dropout alone, from the same initial weights; default: seed",
    )
    export: ExportSettings = ExportSettings()
    gates: GateSettings = GateSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("expected letters, digits, '.', '_' and '-', beginning with a letter or digit")
        return value

    @field_validator("tasks")
    @classmethod
    def _task_names_are_identifiers(cls, value: dict[str, TaskSettings]) -> dict[str, TaskSettings]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
                raise ValueError(f"task name '{name}': expected letters, digits and '_', beginning with a letter")
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _method_is_known(cls, value: object) -> dict[str, dict[str, Any]]:
        return parse_method(value)

    @model_validator(mode="after")
    def _models_are_complete(self) -> Recipe:
        for name in self.tasks:
            teacher = self.teacher_of(name)
            if teacher.model is None and teacher.predictions is None:
                raise ValueError(f"the teacher of task '{name}' has neither 'model' nor 'predictions'; give one")
        if self.student.model is None and not isinstance(self.teacher.model, str):
            raise ValueError(
                "student.model is missing: the teacher has no single checkpoint to take layers from; set it"
            )
        if self.student.init == "teacher" and not self._has_one_teacher_to_copy():
            raise ValueError(
                "student.init 'teacher' copies one teacher's layers: it needs one task, one teacher model and no "
                "student.model; use init: pretrained"
            )
        check_early_stopping(self.method, self.training.early_stopping)
        return self

    def _has_one_teacher_to_copy(self) -> bool:
        if self.student.model or len(self.tasks) > 1:
            return False
        teacher = self.teacher_of(next(iter(self.tasks)))
        return teacher.predictions is None and teacher.num_members == 1

    def teacher_of(self, task: str) -> TeacherSettings:
        """The teacher settings that hold for one task."""
        return self.tasks[task].teacher or self.teacher

    @property
    def student_order_seed(self) -> int:
        """Seed of the students' data order and dropout."""
        return self.seed if self.order_seed is None else self.order_seed

    def student_model(self) -> str:
        """The checkpoint that the student starts from."""
        return self.student.model or str(self.teacher.model)
