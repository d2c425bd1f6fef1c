"""The stages that time a finished run; both read the models that they time and the test texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from compressor.data.splits import TaskData
from compressor.pipeline import timing, waterfall
from compressor.pipeline.stages import Stage

if TYPE_CHECKING:
    from compressor.pipeline.graph import Pipeline

Data = Callable[[], Mapping[str, TaskData]]
_NOT_TIMED = {"waterfall_seconds", "price_per_cpu_hour"}


def benchmark_stage(pipeline: Pipeline, data: Data) -> Stage:
    """Latency of teacher, student and artifacts on this machine."""
    teachers = _teachers(pipeline)
    settings = pipeline.recipe.benchmark
    return Stage(
        "benchmark",
        2,
        {"benchmark": settings.model_dump(mode="json", exclude=_NOT_TIMED)},
        lambda folder: timing.measure_latency(
            folder,
            pipeline.bundle_folder,
            student=pipeline.path(pipeline.student),
            teachers={task: pipeline.path(stage) for task, stage in teachers.items()},
            data=data(),
            settings=settings,
        ),
        _inputs(pipeline, teachers),
        label="timing teacher, student and artifacts",
    )


def waterfall_stage(pipeline: Pipeline, data: Data) -> Stage | None:
    """From the padded teacher to what is served; None without a teacher model, or where the recipe leaves it out."""
    teachers = _teachers(pipeline)
    seconds = pipeline.recipe.benchmark.waterfall_seconds
    if not teachers or not seconds:
        return None
    return Stage(
        "waterfall",
        1,
        {"seconds": seconds},
        lambda folder: waterfall.run_waterfall(
            folder,
            pipeline.bundle_folder,
            student=pipeline.path(pipeline.student),
            teachers=[pipeline.path(stage) for stage in teachers.values()],
            data=data(),
            seconds=seconds,
        ),
        _inputs(pipeline, teachers),
        label="timing the way from teacher to bundle",
    )


def _teachers(pipeline: Pipeline) -> dict[str, Stage]:
    """The teachers that are models, each once; of an ensemble the first member."""
    return {
        task: stage
        for task, stage in pipeline.distinct_teachers.items()
        if pipeline.recipe.teacher_of(task).predictions is None
    }


def _inputs(pipeline: Pipeline, teachers: Mapping[str, Stage]) -> dict[str, Stage]:
    own = {"bundle": pipeline.bundle, "student": pipeline.student, "data": pipeline.data}
    return {**own, **{f"teacher-{task}": stage for task, stage in teachers.items()}}
