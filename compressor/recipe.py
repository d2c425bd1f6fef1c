"""The recipe: what to do, typed and validated. Every knob is documented here, once.

The sections `training` and `teacher` stand in files of their own, what sections say together is checked in
`compressor.recipe_checks`. `compressor.recipe_file` reads a recipe from YAML; `compressor recipe --example` prints a
commented one.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from compressor.distillation.augmentation.knobs import AddedTexts
from compressor.distillation.presets import PRESETS, parse_method
from compressor.recipe_checks import check_sections
from compressor.teacher_settings import TeacherSettings
from compressor.training_settings import Positive, Settings, TrainingSettings
from export.target.compatibility import choose_opset
from serving.errors import UserError

__all__ = [
    "BenchmarkSettings",
    "ExportSettings",
    "GateSettings",
    "Recipe",
    "Settings",
    "StudentSettings",
    "TaskSettings",
    "TeacherSettings",
    "TrainingSettings",
]

Scalar = str | int | float | bool
Limit = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


def _teacher_form(value: object) -> str:
    return "no-teacher" if isinstance(value, str) else "own-teacher"


OwnTeacher = Annotated[
    Annotated[TeacherSettings, Tag("own-teacher")] | Annotated[Literal["none"], Tag("no-teacher")],
    Discriminator(_teacher_form),
]


class SourceSettings(Settings):
    """Labelled rows of a neighbouring domain, with the task's labels."""

    data: str = Field(description="as a task's data; of its splits train alone is read")
    text: str | list[str] | None = Field(None, description="text column or columns; default: the task's, else found")
    label: str | None = Field(None, description="label column; default: the task's, else found")
    where: dict[str, Scalar | list[Scalar]] = Field({}, description="keep only rows with these values")


class TaskSettings(Settings):
    """One task: where its rows are and which columns hold what."""

    data: str = Field(
        description="built-in name, .csv/.tsv/.jsonl/.parquet file, folder of splits, or hub id org/name:config@rev"
    )
    text: str | list[str] | None = Field(None, description="text column, or two columns for text pairs")
    label: str | None = Field(None, description="label column")
    where: dict[str, Scalar | list[Scalar]] = Field({}, description="keep only rows with these values")
    unlabelled: str | None = Field(None, description="file of texts for the soft loss only")
    source: SourceSettings | None = Field(
        None, description="labelled rows of a neighbouring domain, for the teacher and the methods source, refill, l2a"
    )
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
    teacher: OwnTeacher | None = Field(
        None,
        description="this task's own teacher; none: the task has no teacher, its gold labels alone are learned from; "
        "default: the recipe's teacher",
    )

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
    tasks: Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="tasks of the recipe that this student answers; the others still shape splits, leakage filter "
        "and multi-task teachers; default: all",
    )


class ExportSettings(Settings):
    """What the bundle holds."""

    precisions: list[Literal["fp32", "int8", "int8_static", "int8_weights", "fp16"]] = Field(
        ["fp32", "int8"],
        min_length=1,
        description="artifacts: int8 finds the scale of activations at run time (fastest, neighbours change answers), "
        "int8_static has learned it, int8_weights has none; fp16 is for GPUs",
    )
    exclude: Literal["auto", "none"] | list[str] = Field(
        "auto",
        description="layers that stay fp32 in int8 graphs: auto, the worst ones until gates.quantisation_metric_drop "
        "holds; none; or names, roles or patterns of layers",
    )
    ranges: Literal["minmax", "percentile_99.9", "percentile_99.99", "entropy", "mse"] = Field(
        "mse", description="how int8_static turns what it has seen of an activation into its range"
    )
    calibration_texts: Positive = Field(
        256, description="training texts per task that ranges of activations are learned from"
    )
    opset: Annotated[int, Field(ge=14)] | None = Field(None, description="ONNX opset; default: a tested one")
    target_runtime: str | None = Field(
        None,
        description="release of ONNX Runtime that must read the bundle, e.g. 1.17.3: picks the opset, and replays the "
        "golden examples under that release in an environment of its own",
    )
    golden: Literal["synthetic", "validation"] = Field(
        "synthetic", description="texts of the golden examples: made up, or real ones from validation"
    )
    temperature: Literal["fit", "none"] = Field(
        "fit",
        description="fit: one temperature per task on validation, which makes probabilities more believable and "
        "changes no decision, where it helps; none: probabilities as the student gives them",
    )

    @field_validator("precisions")
    @classmethod
    def _fp32_is_the_reference(cls, value: list[str]) -> list[str]:
        if "fp32" not in value:
            raise ValueError("fp32 is missing: it is what the other precisions are checked against; add it")
        return value

    @model_validator(mode="after")
    def _the_runtime_reads_the_opset(self) -> ExportSettings:
        try:
            choose_opset(self.target_runtime, self.opset, default=1)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


class GateSettings(Settings):
    """Limits; a gate whose interval is not within its limit ends the run with exit code 3."""

    export_logit_difference: Limit = Field(1e-4, description="fp32 graphs against torch, per logit")
    batch_invariance: Limit = Field(
        1e-5, description="fp32 graph, a text alone against the same text among others and padded, per logit"
    )
    quantisation_metric_drop: Limit = Field(
        0.01, description="artifact against the fp32 student on validation, absolute, paired"
    )
    teacher_metric_drop: Limit | None = Field(
        None, description="student against teacher on validation, absolute, paired; off unless set"
    )
    worst_slice_drop: Limit | None = Field(
        None,
        description="share of right answers that an artifact may lose against the fp32 student in any class or length "
        "of the validation texts; off unless set",
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
    rounds: Annotated[int, Field(ge=3)] = Field(
        6, description="interleaved rounds over all variants; with fewer than 6 no ratio has a 95% interval"
    )
    allow_cpu_fallback: bool = Field(
        False, description="time an artifact on a GPU even where the CPU computes a part of it; the part is shown"
    )
    waterfall_seconds: Annotated[float, Field(ge=0)] = Field(
        20.0, description="about how long the waterfall from teacher to bundle may take; 0 leaves it out"
    )
    price_per_cpu_hour: Annotated[float, Field(gt=0)] | None = Field(
        None, description="in any currency; gives the waterfall its cost per million texts"
    )


class Recipe(Settings):
    """A whole run."""

    name: str = Field(description="name of the run and of its bundle")
    intended_use: str | None = Field(
        None, description="what the model is for, in a sentence or two; printed on its card"
    )
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
    def _sections_fit_together(self) -> Recipe:
        check_sections(self)
        return self

    @property
    def student_tasks(self) -> tuple[str, ...]:
        """The tasks that the student answers, in the recipe's order."""
        return tuple(task for task in self.tasks if self.student.tasks is None or task in self.student.tasks)

    @property
    def taught_tasks(self) -> tuple[str, ...]:
        """Those of the student's tasks that have a teacher."""
        return tuple(task for task in self.student_tasks if self.has_teacher(task))

    def augmented_tasks(self, knobs: AddedTexts) -> tuple[str, ...]:
        """Those of the student's tasks that a method of added texts gives some, see `AddedTexts.tasks`."""
        if knobs.tasks is not None:
            return tuple(task for task in self.student_tasks if task in knobs.tasks)
        with_source = tuple(task for task in self.student_tasks if self.tasks[task].source)
        return with_source or self.taught_tasks

    def has_teacher(self, task: str) -> bool:
        """Whether a task has a teacher, its own or the recipe's."""
        return self.tasks[task].teacher != "none"

    def own_teacher(self, task: str) -> TeacherSettings | None:
        """The teacher settings that stand in the task itself, where there are some."""
        own = self.tasks[task].teacher
        return own if isinstance(own, TeacherSettings) else None

    def teacher_of(self, task: str) -> TeacherSettings:
        """The teacher settings that hold for a task that has a teacher, see `taught_tasks`."""
        if not self.has_teacher(task):
            raise RuntimeError(f"task '{task}' has no teacher; ask `has_teacher` first")
        return self.own_teacher(task) or self.teacher

    def teacher_group(self, task: str) -> tuple[str, ...]:
        """The tasks that the teacher of one is trained on: of a multi-task one all without a teacher of their own."""
        if self.tasks[task].teacher is not None or not self.teacher.multitask:
            return (task,)
        return tuple(name for name, settings in self.tasks.items() if settings.teacher is None)

    @property
    def student_order_seed(self) -> int:
        """Seed of the students' data order and dropout."""
        return self.seed if self.order_seed is None else self.order_seed

    def student_model(self) -> str:
        """The checkpoint that the student starts from."""
        return self.student.model or str(self.teacher.model)
