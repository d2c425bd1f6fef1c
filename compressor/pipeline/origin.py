"""What a run folder can say about a bundle that it made; `export.verify` holds the bundle against it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compressor.pipeline import proving
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import load_some
from compressor.pipeline.stages import needed_for
from compressor.recipe import Recipe
from export import measure as measuring
from export.candidate import read_candidate
from export.measure import Measurements
from export.verify import Origin
from serving.errors import UserError
from serving.manifest import Manifest


def origin_of(pipeline: Pipeline, manifest: Manifest) -> Origin:
    """The run of a pipeline as the origin of a bundle.

    Args:
        pipeline: of the run, under the recipe that lies in its folder.
        manifest: of the bundle, whose recorded recipe is judged by the stages that it leads to.

    Raises:
        UserError: a stage that the bundle is made from is not there.
    """
    for stage in needed_for(pipeline.measurements):
        if not pipeline.store.is_done(stage):
            raise UserError(
                f"the run has no finished stage '{stage.name}' for its recipe. Finish it: compressor run FOLDER"
            )
    facts = pipeline.provenance()
    recorded = manifest.provenance.get("recipe")
    if isinstance(recorded, Mapping) and _leads_to(recorded, pipeline):
        facts |= {"recipe": recorded}
    return Origin(
        name=pipeline.recipe.name,
        version=pipeline.measurements.key,
        candidate=read_candidate(pipeline.path(pipeline.candidate)),
        measurements=measuring.read_measurements(pipeline.path(pipeline.measurements)),
        remeasure=lambda: measure_again(pipeline),
        provenance={name: value for name, value in facts.items() if name not in ("created", "versions")},
    )


def measure_again(pipeline: Pipeline) -> Measurements:
    """What the stage `measurements` does, into a folder that is thrown away."""
    inputs = {role: pipeline.path(stage) for role, stage in pipeline.measurements.inputs.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        proving.measure_candidate(
            folder,
            inputs,
            load_some(pipeline.path(pipeline.data), pipeline.recipe.student_tasks),
            recipe=pipeline.recipe,
        )
        return measuring.read_measurements(folder)


def _leads_to(recorded: Mapping[str, Any], pipeline: Pipeline) -> bool:
    """Whether a recorded recipe makes the same bundle: fields that none of its stages reads may have changed since."""
    try:
        recipe = Recipe.model_validate(recorded)
    except ValidationError:
        return False
    return Pipeline(recipe, pipeline.store).bundle.key == pipeline.bundle.key
