"""A bundle with everything that a bundle can claim, and the run that it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.bundle import assemble_bundle
from export.candidate import Candidate
from export.fingerprint import hash_rows, hash_value
from export.measure import Measurements
from export.sample import Sample
from export.verify import Origin

RECIPE = {"name": "toy", "max_length": 24}
STAGES = {"data": "0a", "student": "0b", "candidate": "0c", "measurements": "0d"}


@pytest.fixture(scope="session")
def provenance(sample: Sample) -> dict[str, Any]:
    """What a run writes down of itself."""
    validation = {"rows": len(sample.texts), "sha256": hash_rows(sample.texts, sample.labels)}
    data = {"name": "desk.csv", "measured_on": "validation", "splits": {"validation": validation}}
    return {
        "intended_use": "Telling toys apart.",
        "recipe": RECIPE,
        "recipe_sha256": hash_value(RECIPE),
        "stages": STAGES,
        "data": {"intent": data},
        "models": {"student": "cd" * 32, "teacher of intent": "ef" * 32},
        "created": "2031-03-12T10:00:00+0000",
        "versions": {"onnx": "1.0"},
    }


@pytest.fixture
def claimed(
    candidate: tuple[Path, Candidate], measurements: Measurements, provenance: dict[str, Any], tmp_path: Path
) -> Path:
    """A bundle as a run makes it, that a test may damage."""
    folder = tmp_path / "claimed"
    assemble_bundle(candidate[0], measurements, folder, name="toy", version="0d", provenance=provenance)
    return folder


@pytest.fixture
def origin(candidate: tuple[Path, Candidate], measurements: Measurements, provenance: dict[str, Any]) -> Origin:
    """The run of `claimed`; measuring once more gives the same, without doing it."""
    facts = {name: value for name, value in provenance.items() if name not in ("created", "versions")}
    return Origin(
        name="toy",
        version="0d",
        candidate=candidate[1],
        measurements=measurements,
        remeasure=lambda: measurements,
        provenance=facts,
    )
