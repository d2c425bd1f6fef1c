"""What a bench says of confidence: the temperature of every task, and how far each graph's probabilities hold.

Everything here reads validation texts, which the temperatures are fitted on too; the run's report has the same
figures on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from export.calibration import measure_calibration
from export.parity.bench import Answers, Bench
from export.temperature import TemperatureFit, calibrated, fit_temperature
from serving.claims import Calibration
from serving.manifest import TaskSpec


def fit_temperatures(bench: Bench) -> dict[str, TemperatureFit]:
    """Per task with probabilities whose sample allows it, from the torch student's logits."""
    return {
        name: fit_temperature(bench.torch.sample[name], bench.samples[name].labels, task.type)
        for name, task in bench.tasks.items()
        if task.type != "regression" and bench.samples[name].fits_temperature
    }


def all_calibrated(tasks: Sequence[TaskSpec], fits: Mapping[str, TemperatureFit]) -> tuple[TaskSpec, ...]:
    """Every task at the temperature of its fit; those without one as they are."""
    return tuple(calibrated(task, fits[task.name].temperature) if task.name in fits else task for task in tasks)


def calibrations(bench: Bench, answers: Answers | None, tasks: Sequence[TaskSpec]) -> dict[str, Calibration]:
    """Per task with probabilities, how far those of one graph hold.

    Args:
        bench: whose labelled texts were asked.
        answers: the graph's; None or incomplete ones have no figures.
        tasks: with their temperatures.
    """
    if answers is None or answers.problem:
        return {}
    return {
        task.name: measure_calibration(task, answers.sample[task.name], bench.samples[task.name].labels)
        for task in tasks
        if task.type != "regression"
    }
