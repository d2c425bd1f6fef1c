"""Every fact of a manifest, changed one at a time: it must be noticed, or docs/verify.md must say why it is not."""

from __future__ import annotations

import copy
import fnmatch
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.sample import Sample
from export.verify import Origin, verify
from export.verify.card import card_claims
from export.verify.origin import origin_claims
from serving.errors import BundleError
from serving.manifest import read_manifest

DOCS = Path(__file__).parents[3] / "docs" / "verify.md"
Place = tuple[str | int, ...]


def documented(name: str) -> list[str]:
    """Patterns of the fields that a block of the page lists as unnoticed."""
    text = DOCS.read_text(encoding="utf-8")
    block = text.partition(f"<!-- unnoticed:{name} -->")[2].partition(f"<!-- unnoticed:{name}:end -->")[0]
    return [
        pattern
        for line in block.splitlines()
        if line.startswith("| `")
        for pattern in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value of a JSON document that is no container of containers; lists of plain values count as one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*place, index))
    elif value not in (None, [], ""):
        yield place, value


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.5 + 0.25
    return value[:-1] if isinstance(value, list) else f"{value}x"


def with_change(document: Any, place: Place) -> Any:
    """A copy of the document with the value at a place changed."""
    edited = copy.deepcopy(document)
    holder = edited
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = changed(holder[place[-1]])
    return edited


def called(place: Place) -> str:
    return ".".join("*" if isinstance(step, int) else step for step in place)


def _is_documented(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _compare(unnoticed: set[str], block: str) -> None:
    patterns = documented(block)
    silent = sorted(name for name in unnoticed if not _is_documented(name, patterns))
    assert not silent, f"changed without being noticed, and not in docs/verify.md: {silent}"
    stale = [pattern for pattern in patterns if not any(fnmatch.fnmatchcase(name, pattern) for name in unnoticed)]
    assert not stale, f"docs/verify.md says that these are not noticed, but they are: {stale}"


def test_with_the_run_every_changed_fact_is_noticed(claimed: Path, origin: Origin) -> None:
    """A field that nothing reads back may say whatever sells."""
    path = claimed / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    places = [place for place, _ in leaves(document)]
    assert len(places) > 100
    unnoticed = set()
    for place in places:
        path.write_text(json.dumps(with_change(document, place)), encoding="utf-8")
        try:
            manifest = read_manifest(claimed)
            claims = [*origin_claims(manifest, origin), *card_claims(claimed, manifest)]
        except BundleError:
            continue
        if not any(claim.status == "failed" for claim in claims) and place[0] != "files":
            unnoticed.add(called(place))
    _compare(unnoticed, "run")


def _notices(folder: Path, samples: dict[str, Sample] | None) -> bool:
    try:
        return any(claim.status == "failed" for claim in verify(folder, samples))
    except BundleError:
        return True


def _only(document: Any, place: Place) -> bool:
    """All facts of the bundle, and those of one artifact: the other one's are of the same kinds."""
    return place[0] != "artifacts" or document["artifacts"][place[1]]["precision"] == "int8"


@pytest.mark.slow
def test_without_the_run_the_page_says_what_is_not_noticed(claimed: Path) -> None:
    """Who has the bundle alone must know what its checks are worth."""
    path = claimed / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    unnoticed = set()
    for place, _ in leaves(document):
        if not _only(document, place):
            continue
        path.write_text(json.dumps(with_change(document, place)), encoding="utf-8")
        if not _notices(claimed, None):
            unnoticed.add(called(place))
    _compare(unnoticed, "bundle")


@pytest.mark.parametrize("field", ["value", "low", "high", "metric"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_with_the_data_every_figure_of_a_metric_is_noticed(
    claimed: Path, sample: Sample, precision: str, field: str
) -> None:
    """The ends of an interval are as much a claim as its middle."""
    path = claimed / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    (number,) = [i for i, artifact in enumerate(document["artifacts"]) if artifact["precision"] == precision]
    edited = with_change(document, ("artifacts", number, "metrics", "intent", field))
    path.write_text(json.dumps(edited), encoding="utf-8")
    assert _notices(claimed, {"intent": sample})


@pytest.mark.parametrize(
    "place",
    [("tasks", 0, "labels"), ("tasks", 0, "temperature"), ("inputs", "max_length"), ("inputs", "truncation_side")],
)
def test_facts_that_every_answer_depends_on_are_noticed_without_anything_else(claimed: Path, place: Place) -> None:
    """A server reads these and nothing else to turn text into an answer."""
    path = claimed / "manifest.json"
    path.write_text(json.dumps(with_change(json.loads(path.read_text(encoding="utf-8")), place)), encoding="utf-8")
    assert _notices(claimed, None)


def test_a_hash_of_a_file_is_noticed_without_anything_else(claimed: Path) -> None:
    """The sweep with the run leaves the files' hashes to this test."""
    path = claimed / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    for name in document["files"]:
        path.write_text(json.dumps(with_change(document, ("files", name))), encoding="utf-8")
        assert _notices(claimed, None), name
