"""Methods of several runs: which trainings `avg` and `vote` join, and the seeds of their data orders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compressor.distillation.presets import Knobs, knobs_of, methods_at


def member_seed(order_seed: int, member: int) -> int:
    """Seed of data order and dropout of one of several runs, in [0, 2^32).

    The first has the order seed itself, so that it is the run that is made without `avg`, `vote` or an ensemble.
    """
    if member == 0:
        return order_seed
    return int(np.random.SeedSequence((order_seed, member)).generate_state(1)[0])


def runs_name(methods: Mapping[str, Knobs]) -> str | None:
    """`avg`, `vote` or, for a method of one run, None."""
    return next(iter(methods_at(methods, "runs")), None)


def member_methods(methods: Mapping[str, Knobs]) -> dict[str, Knobs]:
    """What each of several runs trains by: the method without `avg` and `vote`; nothing left means gold labels."""
    runs = methods_at(methods, "runs")
    return {name: knobs for name, knobs in methods.items() if name not in runs} or {"none": {}}


def given_folders(methods: Mapping[str, Knobs]) -> list[Path]:
    """Folders of finished students that `avg` joins instead of training some; empty where they are trained."""
    return [Path(folder).expanduser() for folder in (knobs_of(methods, "avg").of or ())] if "avg" in methods else []


def without_folders(methods: Mapping[str, Knobs]) -> dict[str, Knobs]:
    """The method without the places of given students, which are no part of a stage's name."""
    return {name: {knob: value for knob, value in knobs.items() if knob != "of"} for name, knobs in methods.items()}
