"""`compressor compare`: wrong use is one line, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

WRONG: list[tuple[list[object], str]] = [
    (["--methods", "none,kdd"], "arm 'kdd': no method 'kdd'"),
    (["--methods", "none,kd:heat=2"], "has no knob 'heat'"),
    (["--methods", "none,,kd"], "empty entry"),
    (["--methods", "none"], "nothing to compare"),
    (["--methods", "kd,kd"], "'kd' stands twice"),
    (["--methods", "none,kd", "--main", "swa:none"], "the pair one of: kd:none"),
    (["--methods", "none,kd", "--main", "kd:swa"], "the pair one of: kd:none"),
    (["--methods", "none,kd@single"], "there is one task, 'topic'"),
    (["--methods", "none,kd@multi"], "got '@multi' behind a method"),
    (["--arms", {"a": {"method": "none", "set": {"student.tasks": ["topic"]}}}], "sets 'student.tasks'"),
    (["--methods", "none,kd", "--main", "kd:none@mood"], "no task 'mood'. Choose one of: topic"),
    (["--arms", "missing.yaml"], "'missing.yaml' cannot be read"),
    (["--arms", {"a": {"method": "none", "set": {"training.epoch": 3}}}], "no key 'training.epoch'"),
    (["--arms", {"a": {"method": "none", "set": {"order_seed": 3}}}], "sets 'order_seed'"),
    (["--arms", {"a": {"methods": "none"}}], "no entry 'methods'"),
    (["--arms", {"kd": {"method": "none"}}], "it is the control's name"),
    (["--arms", {"a b": "none", "a?b": "none"}], "would share a folder"),
    (["--arms", {"a": {"method": "none", "set": {"tasks.topic.metric": "macro_f1"}}}], "has other test rows"),
    (["--arms", {"a": {"method": "none", "set": {"teacher.model": "/no/where"}}}], "/no/where"),
]


@pytest.mark.parametrize(("options", "expected"), WRONG, ids=[expected for _, expected in WRONG])
def test_wrong_use_is_one_line_before_any_training(
    toy: Any, compressor: Callable[..., Any], options: list[object], expected: str
) -> None:
    """Catches a mistake that costs a training, leaves a plan that cannot be mended, or ends in a traceback."""
    if isinstance(options[-1], dict):
        path = toy.folder / "arms.yaml"
        path.write_text(yaml.safe_dump(options[-1]))
        options = [options[0], path]
    done = compressor("compare", toy.recipe, *options, "--seeds", 2, "--output", toy.run)
    assert done.code == 2
    assert expected in done.error
    assert not (toy.run / "comparison-plan.json").exists()
    assert not list(toy.run.glob("stages/student*"))


def test_numbers_out_of_range_are_refused(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a comparison of no seeds, which would report nothing as a result."""
    for option in ("--seeds", "--jobs", "--train-rows"):
        assert compressor("compare", toy.recipe, option, 0).code == 2
