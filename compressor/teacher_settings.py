"""Where a teacher comes from and how it is trained: the section `teacher` of a recipe or of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from compressor.training_settings import Positive, TrainingSettings


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
    multitask: bool = Field(
        False,
        description="true: one teacher with a head per task, trained on the labels of all tasks with these settings; "
        "default: a teacher per task",
    )
    source: Literal["first", "together", "none"] = Field(
        "first",
        description="what a teacher that is trained here does with the rows of the task's source: first, it is trained "
        "on them and then on the task's own; together, on all at once; none, it does not read them",
    )
    folds: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="out-of-fold targets: training rows are cut into so many parts, and each is answered by a further "
        "teacher that was trained on the others; as many trainings more per teacher; default: the teacher answers its "
        "own training rows",
    )

    @model_validator(mode="after")
    def _what_is_trained_is_trained_here(self) -> TeacherSettings:
        if self.predictions is not None or not self.train:
            what = "teacher.predictions" if self.predictions is not None else "train: false"
            if self.ensemble > 1:
                raise ValueError(
                    f"ensemble is {self.ensemble}, but {what} trains no teacher. Leave it out, or give train: false "
                    "and a list of fine-tuned checkpoints as model"
                )
            if self.multitask or self.folds:
                name = "multitask" if self.multitask else "folds"
                raise ValueError(f"{name} is set, but {what} trains no teacher. Leave {name} out, or train one here")
        return self

    @model_validator(mode="after")
    def _a_list_is_of_finished_checkpoints(self) -> TeacherSettings:
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
        """The recipe's training settings with every training key that is set here; epochs take the place of steps."""
        keys = TrainingSettings.model_fields.keys() & self.model_fields_set
        own = {key: getattr(self, key) for key in keys}
        if "epochs" in own:
            own.setdefault("steps", None)
        return defaults.model_copy(update=own)
