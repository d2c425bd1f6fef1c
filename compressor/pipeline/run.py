"""A run folder: what the user keeps of a run, and the one function that fills it.

recipe.yaml  environment.json  log.jsonl  report.json  report.html
stages/<stage>-<key>/
teacher/  student/  controls/  bundle/     links to the current stages
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from compressor.pipeline.checks import check_before_training, check_with_data
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.ladder import read_ladder
from compressor.pipeline.learning import load_data
from compressor.pipeline.proving import BUNDLE_FOLDER, read_verdicts
from compressor.pipeline.quantising import read_explanation
from compressor.pipeline.several_runs import runs_name
from compressor.pipeline.stages import Stage, StageStore, needed_for, run_stages, write_json, write_text
from compressor.pipeline.teacher_stages import by_role, cost_of_folds
from compressor.progress import announce, log_event
from compressor.recipe import Recipe
from compressor.recipe_file import dump_recipe, load_recipe
from compressor.report.assemble import assemble_report, describe_environment
from compressor.report.page import write_page
from export.gates import Gate, describe_gate
from serving.errors import GateFailed, UserError

RECIPE_FILE, ENVIRONMENT_FILE, LOG_FILE = "recipe.yaml", "environment.json", "log.jsonl"
REPORT_FILE, PAGE_FILE = "report.json", "report.html"
STAGES_FOLDER = "stages"


@dataclass(frozen=True)
class RunFolder:
    """An output folder that belongs to one recipe.

    Attributes:
        folder: of the run.
        recipe: what is done in it.
        pipeline: its stages.
    """

    folder: Path
    recipe: Recipe
    pipeline: Pipeline

    @classmethod
    def open(
        cls, folder: Path, recipe: Recipe, *, stages: Path | None = None, allow_inconclusive: bool = False
    ) -> RunFolder:
        """Make or reuse a run folder.

        Args:
            folder: of the run; made if it is not there.
            recipe: what to do.
            stages: a stage store to share with other runs; default: inside the run folder.
            allow_inconclusive: gates that the sample cannot decide do not fail the run.

        Raises:
            UserError: the folder holds another run, or something that is no run.
        """
        _check_owner(folder, recipe)
        if allow_inconclusive:
            gates = recipe.gates.model_copy(update={"allow_inconclusive": True})
            recipe = recipe.model_copy(update={"gates": gates})
        return cls(folder, recipe, Pipeline(recipe, _open_store(folder, stages)))

    def run(self, *targets: Stage) -> None:
        """Run what some stages need and link what is there now.

        What can be found wrong is found before anything is trained, and before the recipe of an earlier run in
        this folder is replaced.
        """
        store, log = self.pipeline.store, self.folder / LOG_FILE
        needed = needed_for(*targets)
        untrained = {stage.folder_name for stage in self.pipeline.untrained}
        if not all(store.is_done(stage) for stage in needed):
            check_before_training(self.recipe)
        log_event(log, "run started", targets=[stage.folder_name for stage in targets])
        run_stages(store, [stage for stage in needed if stage.folder_name in untrained], log)
        if not all(store.is_done(stage) for stage in needed):
            check_with_data(self.recipe, load_data(self.pipeline.path(self.pipeline.data)))
        write_text(self.folder / RECIPE_FILE, dump_recipe(self.recipe))
        write_json(self.folder / ENVIRONMENT_FILE, describe_environment())
        if cost := cost_of_folds(needed, store):
            announce(cost)
        run_stages(store, [stage for stage in needed if stage.folder_name not in untrained], log)
        self._link()
        log_event(log, "run finished")

    def run_all(self) -> dict[str, Any]:
        """Every stage and the report, which is returned; `check_gates` says whether it may be trusted."""
        self.run(*self.pipeline.final_stages)
        return self.write_report()

    def write_report(self) -> dict[str, Any]:
        """Write report.json and report.html from finished stages; UserError names a missing one."""
        pipeline = self.pipeline
        missing = [stage.name for stage in pipeline.in_order() if not pipeline.store.is_done(stage)]
        if missing:
            raise UserError(
                f"the run '{self.folder}' has no finished stage {missing[0]!r}. "
                f"Finish it first: compressor run {self.folder}"
            )
        report = assemble_report(pipeline)
        write_json(self.folder / REPORT_FILE, report)
        write_page(report, self.folder / PAGE_FILE)
        return report

    def check_gates(self, report: Mapping[str, Any]) -> None:
        """GateFailed with one line per gate that did not pass; a report without gates has not passed."""
        tolerated = {"passed", "inconclusive"} if self.recipe.gates.allow_inconclusive else {"passed"}
        gates = msgspec.convert(report["gates"], list[Gate])
        if not gates:
            raise GateFailed(f"no gate was checked in {self.folder}, and what nobody checked has not passed")
        if failed := [gate for gate in gates if gate.verdict not in tolerated]:
            lines = "; ".join(map(describe_gate, failed))
            raise GateFailed(f"{lines}.{_hint(failed)} Everything measured is in {self.folder}")
        if unsound := [rung["rung"] for rung in report["ladder"] if not rung["passed"]]:
            raise GateFailed(f"these did not pass although no gate failed: {', '.join(unsound)}; see {self.folder}")

    def export(self, *, explain: bool = False) -> dict[str, Any] | None:
        """The bundle; where it is asked for, also what quantisation did, see `read_explanation`."""
        pipeline = self.pipeline
        explanation = pipeline.quantisation if explain else None
        self.run(pipeline.bundle, *([explanation] if explanation else []))
        if not explain:
            return None
        return read_explanation(pipeline.path(explanation), pipeline.path(pipeline.candidate)) if explanation else {}

    def check_verdicts(self) -> None:
        """`check_gates` on the gates alone, before there is a report."""
        folder = self.pipeline.path(self.pipeline.measurements)
        self.check_gates({"gates": read_verdicts(folder), "ladder": read_ladder(folder)})

    def _link(self) -> None:
        pipeline = self.pipeline
        self._link_teachers()
        for link in (self.folder / "controls").glob("*"):
            if link.name not in pipeline.controls:  # of an earlier method
                link.unlink()
        for name, stage in pipeline.controls.items():
            self._point(f"controls/{name}", stage)
        if runs_name(pipeline.recipe.method) != "vote":  # which leaves no single student
            self._point("student", pipeline.student)
            self._point("bundle", pipeline.bundle, inside=BUNDLE_FOLDER)

    def _link_teachers(self) -> None:
        """`teacher` where there is one, else `teacher/<task>`; members of an ensemble are numbered."""
        members = self.pipeline.teacher_members
        names = {name: stage for task, stages in members.items() for name, stage in by_role(task, stages).items()}
        folder = self.folder / "teacher"
        if len({stage.folder_name for stage in names.values()}) == 1:  # a multi-task teacher stands there once
            self._point("teacher", next(iter(names.values())))
            return
        if folder.is_symlink():  # of an earlier single teacher: links would land in its stage
            folder.unlink()
        for link in folder.glob("*"):
            if link.name not in names:
                link.unlink()
        for name, stage in names.items():
            self._point(f"teacher/{name}", stage)

    def _point(self, name: str, stage: Stage, inside: str = "") -> None:
        if not self.pipeline.store.is_done(stage):
            return
        link = self.folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        aside = link.with_name(f".{link.name}.{os.getpid()}")
        aside.unlink(missing_ok=True)
        aside.symlink_to(os.path.relpath(self.pipeline.path(stage) / inside, link.parent), target_is_directory=True)
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        aside.replace(link)


def _hint(failed: Sequence[Gate]) -> str:
    if all(gate.verdict == "failed" for gate in failed):
        return ""
    return (
        " The validation split is too small to decide; give more rows, set a wider limit, or accept it with "
        "--allow-inconclusive."
    )


def open_existing(place: Path, overrides: list[str], output: Path | None, **options: Any) -> RunFolder:
    """A run folder from a recipe file or from a run folder that has one.

    Args:
        place: a recipe, or a run folder.
        overrides: of `--set`.
        output: the run folder; default: `place` if it is one, else runs/<name>.
        options: passed on to `RunFolder.open`.
    """
    if place.is_dir():
        recipe = load_recipe(place / RECIPE_FILE, overrides)
        return RunFolder.open(output or place, recipe, **options)
    recipe = load_recipe(place, overrides)
    return RunFolder.open(output or default_output(recipe), recipe, **options)


def default_output(recipe: Recipe) -> Path:
    """runs/<name> in the working directory."""
    return Path("runs") / recipe.name


def _open_store(folder: Path, shared: Path | None) -> StageStore:
    """The folder's own store, or a shared one, to which `stages` then points for later commands."""
    own = folder / STAGES_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shared is None:
            return StageStore(own)
        store = StageStore(shared)
        if own.is_symlink() or not own.exists():
            own.unlink(missing_ok=True)
            own.symlink_to(shared.resolve(), target_is_directory=True)
    except OSError as error:
        raise UserError(
            f"the folder '{error.filename or folder}' cannot be made: {error.strerror}. "
            "Give another place with --output or --stages."
        ) from error
    return store


def _check_owner(folder: Path, recipe: Recipe) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the output '{folder}' is a file. Give a folder with --output.")
    recorded = folder / RECIPE_FILE
    if not recorded.is_file():
        if folder.is_dir() and any(folder.iterdir()) and not (folder / STAGES_FOLDER).is_dir():
            raise UserError(
                f"the output folder '{folder}' holds other things. Give a new or empty folder with --output."
            )
        return
    old = load_recipe(recorded)
    if old.name != recipe.name or old.tasks.keys() != recipe.tasks.keys():
        raise UserError(
            f"the output folder '{folder}' belongs to run '{old.name}' with tasks {', '.join(old.tasks)}; "
            f"this is '{recipe.name}' with {', '.join(recipe.tasks)}. Give another folder with --output."
        )
