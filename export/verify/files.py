"""Claims about the folder's files: their hashes and sizes, and that they agree with the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from export.card import CARD_FILE
from export.config import CONFIG_FILE, TASKS_KEY, describe_tasks
from export.verify.claim import Claim, decided, equal, failed, unchecked
from serving.hashing import hash_file
from serving.manifest import GOLDEN_FILE, MANIFEST_FILE, Manifest
from serving.tokenise import TOKENIZER_FILE

NEEDED_FILES = (TOKENIZER_FILE, GOLDEN_FILE, CONFIG_FILE)


def file_claims(folder: Path, manifest: Manifest) -> Iterator[Claim]:
    """Every file that the manifest names, those it should name, and those that it does not."""
    hashes = manifest.files | {artifact.file: artifact.sha256 for artifact in manifest.artifacts}
    for name, expected in hashes.items():
        yield _hash_claim(folder, name, expected)
    missing = [name for name in NEEDED_FILES if name not in manifest.files]
    detail = f"it has none of {', '.join(missing)}" if missing else f"{len(hashes)} files"
    yield decided("the manifest has a hash of every file", detail, holds=not missing)
    known = {*hashes, MANIFEST_FILE, CARD_FILE}
    others = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if unnamed := [name for name in others if name not in known]:
        yield unchecked("other files", f"nothing is claimed of {', '.join(unnamed)}")


def _hash_claim(folder: Path, name: str, expected: str) -> Claim:
    claim, place = f"{name}: sha256", PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        return failed(claim, "lies outside the bundle")
    return equal(claim, expected, lambda: hash_file(folder / place))


def config_claims(folder: Path, manifest: Manifest) -> Iterator[Claim]:
    """Other tools read `config.json`, this one the manifest: they must agree."""
    yield equal("pad id: manifest and config.json agree", manifest.inputs.pad_id, lambda: _pad_id(folder, manifest))
    name = "labels: manifest and config.json agree"
    if len(manifest.tasks) > 1:
        yield equal(name, describe_tasks(manifest.tasks), lambda: _config(folder)[TASKS_KEY])
    else:
        task = manifest.tasks[0]
        yield equal(name, list(task.labels or (task.name,)), lambda: _labels(folder))


def task_claims(manifest: Manifest) -> Iterator[Claim]:
    """Each task is judged by the metric that it names, and answers from an output of its own."""
    for task in manifest.tasks:
        named = {a.metrics[task.name].metric for a in manifest.artifacts if task.name in a.metrics}
        named |= {manifest.student[task.name].metric} if task.name in manifest.student else set()
        if named:
            detail = f"measured was {', '.join(sorted(named))}"
            yield decided(f"the metric of {task.name} is {task.metric}", detail, holds=named == {task.metric})
    outputs = [task.output for task in manifest.tasks]
    is_own = len(set(outputs)) == len(outputs)
    yield decided("every task has an output of its own", ", ".join(outputs), holds=is_own)


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return found


def _labels(folder: Path) -> list[str]:
    labels = _config(folder)["id2label"]
    return [labels[key] for key in sorted(labels, key=int)]


def _pad_id(folder: Path, manifest: Manifest) -> int:
    """The configuration's pad id; where it has none (some tokenizers have one all the same) the manifest's."""
    found = _config(folder).get("pad_token_id")
    return manifest.inputs.pad_id if found is None else int(found)
