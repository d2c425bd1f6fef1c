"""The stages of texts that a method adds: masked language model, candidates, selection.

They stand between the teachers and the student. What a student's loss does with the texts is no concern of theirs, so
methods that differ in that alone share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from compressor.data.leakage import text_keys
from compressor.data.splits import TEST, VALIDATION, TaskData
from compressor.distillation.augmentation.knobs import AddedTexts, L2aKnobs, RefillKnobs, SourceKnobs
from compressor.distillation.presets import Knobs, knobs_of, methods_at, needs_teacher
from compressor.models.masked_lm import Adaptation, adapt_masked_lm, epochs_for, num_steps
from compressor.models.resolve import checkpoint_fingerprint
from compressor.pipeline import augmenting, learning, selecting
from compressor.pipeline.added import AddedPlace
from compressor.pipeline.selection_input import Selecting
from compressor.pipeline.several_runs import given_folders
from compressor.pipeline.stages import Stage
from compressor.pipeline.teacher_stages import TeacherStages, by_role
from compressor.progress import progress_bar
from compressor.recipe import Recipe
from export.runners import limit_threads

ADAPTED = "adapt"
_OF_THE_LOSS = ("weight", "target_share", "tasks")
_OF_THE_CHOICE = ("selector",)


def added_texts(methods: Mapping[str, Knobs]) -> AddedTexts | None:
    """The knobs of the method that adds texts; None where none does, they weigh nothing, or the students are given."""
    if given_folders(methods):
        return None
    found = next((knobs_of(methods, name) for name in methods_at(methods, "texts")), None)
    return None if found is None or found.weight == 0.0 else found


def pretrained_of(recipe: Recipe, task: str) -> str:
    """The checkpoint that a task's teacher was trained from, else the one that the student starts from."""
    teacher = recipe.teacher_of(task)
    return teacher.models[0] if teacher.train and teacher.models else recipe.student_model()


class AugmentingStages(TeacherStages):
    """What is added to the rows of the tasks, joined to a store."""

    def added_stages(self, methods: Mapping[str, Knobs]) -> dict[str, dict[str, Stage]]:
        """Per task that gets texts the stages that a student reads: `candidates`, and `selection` of some of them."""
        knobs = added_texts(methods)
        if knobs is None:
            return {}
        return {task: self._added(task, knobs, methods) for task in self.recipe.augmented_tasks(knobs)}

    def added_places(self, methods: Mapping[str, Knobs]) -> dict[str, AddedPlace]:
        """Where a student finds its added texts, per task."""
        knobs = added_texts(methods)
        return {
            task: AddedPlace(
                self.path(stages["candidates"]),
                self.path(stages["selection"]) if "selection" in stages else None,
                knobs.selector if isinstance(knobs, L2aKnobs) else "learned",
                gold=isinstance(knobs, SourceKnobs) and knobs.labels == "gold",
            )
            for task, stages in self.added_stages(methods).items()
        }

    def masked_lm(self, methods: Mapping[str, Knobs]) -> Path | str | None:
        """The masked language model that refills texts: the folder of an adapted one, or what the recipe calls it."""
        knobs = added_texts(methods)
        if not isinstance(knobs, RefillKnobs):
            return None
        return self.path(self._masked_lm(knobs)) if knobs.mlm == ADAPTED else knobs.mlm

    def _added(self, task: str, knobs: AddedTexts, methods: Mapping[str, Knobs]) -> dict[str, Stage]:
        if isinstance(knobs, SourceKnobs):
            return {"candidates": self._source_texts(task, knobs, has_teacher=needs_teacher(methods))}
        if not isinstance(knobs, RefillKnobs):
            raise RuntimeError(f"no stages for {type(knobs).__name__}")
        candidates = self._candidates(task, knobs)
        if not isinstance(knobs, L2aKnobs):
            return {"candidates": candidates}
        return {"candidates": candidates, "selection": self._selection(task, knobs, candidates, methods)}

    def _source_texts(self, task: str, knobs: SourceKnobs, *, has_teacher: bool) -> Stage:
        asked = self._asked_teachers(task) if has_teacher else {}
        return Stage(
            f"source-texts-{task}",
            1,
            self._fields(knobs, SourceKnobs, without=(*_OF_THE_LOSS, "labels")),
            self._on_threads(lambda folder: augmenting.gather_source_texts(folder, self._material(task, asked), knobs)),
            {"data": self.data, **asked, **({"check": self._check(task)} if asked else {})},
            label=f"reading the source of {task}",
        )

    def _candidates(self, task: str, knobs: RefillKnobs) -> Stage:
        asked = self._asked_teachers(task)
        adapted = self._masked_lm(knobs) if knobs.mlm == ADAPTED else None
        given = {} if adapted else {"checkpoint": checkpoint_fingerprint(knobs.mlm)}
        return Stage(
            f"candidates-{task}",
            2,
            {**self._fields(knobs, RefillKnobs, without=(*_OF_THE_LOSS, "mlm_steps")), **given},
            self._on_threads(
                lambda folder: augmenting.make_candidates(
                    folder, self._material(task, asked), knobs, str(self.path(adapted)) if adapted else knobs.mlm
                )
            ),
            {"data": self.data, **asked, "check": self._check(task), **({"masked-lm": adapted} if adapted else {})},
            label=f"making candidates for {task} by mask and refill",
        )

    def _check(self, task: str) -> Stage:
        """Stands before the expensive stages: who knows nothing is not asked about a thousand texts."""
        inputs = {"data": self.data, "targets": self.targets[task]}
        return Stage(
            f"teacher-check-{task}",
            1,
            {},
            lambda folder: augmenting.check_teacher(folder, self._task_data(task), self.path(inputs["targets"])),
            inputs,
            label=f"holding the teacher of {task} against always the same answer",
        )

    def _masked_lm(self, knobs: RefillKnobs) -> Stage:
        tasks = self.recipe.augmented_tasks(knobs)
        model = pretrained_of(self.recipe, tasks[0])
        return Stage(
            "masked-lm",
            1,
            {
                "model": checkpoint_fingerprint(model),
                "tasks": sorted(tasks),
                "steps": knobs.mlm_steps,
                "seed": self.recipe.seed,
                "max_length": self.recipe.max_length,
                "threads": self.recipe.training.threads,
            },
            self._on_threads(lambda folder: self._adapt(folder, model, tasks, knobs)),
            {"data": self.data},
            label="adapting a masked language model to the training texts",
        )

    def _adapt(self, folder: Path, model: str, tasks: tuple[str, ...], knobs: RefillKnobs) -> None:
        texts = augmenting.masked_lm_texts(learning.load_some(self.path(self.data), tasks))
        epochs = epochs_for(knobs.mlm_steps, len(texts))
        settings = Adaptation(epochs, self.recipe.max_length, self.recipe.seed)
        with progress_bar("masked language model", num_steps(len(texts), epochs)) as bar:
            adapt_masked_lm(model, texts, settings, folder=folder, advance=bar.update)

    def _selection(self, task: str, knobs: L2aKnobs, candidates: Stage, methods: Mapping[str, Knobs]) -> Stage:
        inputs = {"data": self.data, "targets": self.targets[task], "candidates": candidates}
        if self.recipe.student.init == "teacher":
            inputs["teacher"] = self.teachers[task]
        supervision = {name: values for name, values in methods.items() if needs_teacher({name: values})}
        seeds = learning.Seeds(self.recipe.seed, self.recipe.student_order_seed)
        return Stage(
            f"selection-{task}",
            7,
            {
                **self._fields(knobs, L2aKnobs, without=("tasks", *_OF_THE_CHOICE)),
                "base": checkpoint_fingerprint(self.recipe.student_model()),
                "layers": self.recipe.student.layers,
                "init": learning.start_of(self.recipe),
                "supervision": {name: asdict(knobs_of(supervision, name)) for name in supervision},
                **self._training_fields(self.recipe.training, seeds, num_tasks=1),
            },
            self._on_threads(
                lambda folder: selecting.select_candidates(
                    folder,
                    Selecting.read(
                        self._task_data(task),
                        {role: self.path(stage) for role, stage in inputs.items()},
                        self.recipe,
                        supervision=supervision,
                        knobs=knobs,
                    ),
                )
            ),
            inputs,
            label=f"learning which candidates help the student of {task}",
        )

    def _on_threads(self, build: Callable[[Path], None]) -> Callable[[Path], None]:
        """The build of a stage on as many of torch's threads as a training has."""

        def limited(folder: Path) -> None:
            with limit_threads(self.recipe.training.cpu_threads):
                build(folder)

        return limited

    def _asked_teachers(self, task: str) -> dict[str, Stage]:
        return by_role("teacher", self.teacher_members[task])

    def _material(self, task: str, asked: Mapping[str, Stage]) -> augmenting.Material:
        everything = learning.load_data(self.path(self.data))
        return augmenting.Material(
            data=self._task_data(task),
            encoder=self.recipe.student_model(),
            teachers=[self.path(stage) for stage in asked.values()],
            evaluation_keys=_evaluation_keys(everything),
            max_length=self.recipe.max_length,
            seed=self.recipe.seed,
        )

    def _fields(self, knobs: AddedTexts, kind: type[AddedTexts], *, without: tuple[str, ...]) -> dict[str, Any]:
        """The knobs of a kind that a stage reads, and what else its texts depend on."""
        kept = {knob.name: getattr(knobs, knob.name) for knob in fields(kind) if knob.name not in without}
        encoder = checkpoint_fingerprint(self.recipe.student_model())
        return {**kept, "seed": self.recipe.seed, "max_length": self.recipe.max_length, "encoder": encoder}


def _evaluation_keys(data: Mapping[str, TaskData]) -> frozenset[str]:
    """Texts of the evaluation splits of all tasks, normalised."""
    return frozenset(
        key for task in data.values() for name in (VALIDATION, TEST) for key in text_keys(task.splits[name].texts)
    )
