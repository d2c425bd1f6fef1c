"""What a stage key holds of a task's data: the content of local files, the id of hub ones."""

from __future__ import annotations

from pathlib import Path

from compressor.data.builtin import CORPORA
from compressor.data.files import READERS
from compressor.recipe import TaskSettings
from serving.hashing import hash_file


def data_fingerprint(settings: TaskSettings) -> dict[str, str]:
    """Hash per file of the task's data, unlabelled texts and source; a place that is not local stands for itself."""
    source = settings.source.data if settings.source else None
    places = [place for place in (settings.data, settings.unlabelled, source) if place]
    return {place: _fingerprint(place) for place in places}


def _fingerprint(place: str) -> str:
    path = CORPORA.get(place, Path(place).expanduser())
    if path.is_file():
        return hash_file(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS)
        return " ".join(f"{file.name}:{hash_file(file)}" for file in files)
    return place
