"""A teacher that was trained by this program on another range of values says the same values here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from compressor.models.checkpoint import save_checkpoint
from compressor.models.initialise import pretrained_model
from compressor.models.teacher import import_teacher, teacher_logits
from compressor.recipe import TeacherSettings
from serving.answers import decide
from serving.manifest import TaskSpec

TEXTS = [("my card never arrived",), ("please refund the money now thanks",), ("help",)]


@pytest.mark.parametrize("wanted", [(1.0, 5.0), (0.0, 10.0), (-2.0, 3.0)])
def test_a_regression_teacher_of_ours_keeps_its_values_in_another_range(
    wanted: tuple[float, float], checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Read in the new data's units, every target of such a teacher would be off, and nothing would tell."""
    trained = TaskSpec(name="urgency", type="regression", range=(1.0, 5.0))
    save_checkpoint(tmp_path / "own", pretrained_model(str(checkpoint()), [trained], seed=3), tokenizer)
    before = decide(teacher_logits(tmp_path / "own", TEXTS, trained, max_length=16), trained)
    task = TaskSpec(name="urgency", type="regression", range=wanted)
    import_teacher(tmp_path / "adopted", TeacherSettings(model=str(tmp_path / "own"), train=False), task)
    found = decide(teacher_logits(tmp_path / "adopted", TEXTS, task, max_length=16), task)
    assert np.ptp(before) > 0
    np.testing.assert_allclose(found, before, rtol=1e-5)
