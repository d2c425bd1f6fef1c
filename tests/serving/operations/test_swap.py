"""Hot swap: what takes over, what is refused, and that the old bundle leaves memory."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import serving.operations.swap
from serving.bundle import Bundle
from serving.engine.contract import NotReady
from serving.engine.dummy import DummyEngine
from serving.errors import UserError
from serving.manifest import Manifest, TaskSpec, read_manifest
from serving.model import OnnxModel
from serving.operations.front import Front
from serving.operations.swap import SwapInProgress, Swapper, visible_changes


class SwappableEngine(DummyEngine):
    """The dummy with the two verbs that operations need."""

    async def swap(self, new_bundle: Bundle) -> None:
        """Take the new bundle."""
        self.bundle = new_bundle

    async def drain(self, grace: float) -> int:
        """Nothing is ever left."""
        return 0

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def front(bundle_folder: Path) -> Front:
    """A ready front over the toy bundle."""
    front = Front()
    front.open(SwappableEngine(Bundle.load(bundle_folder)))
    return front


@pytest.fixture
def newer(bundle_folder: Path, tmp_path: Path, edit_manifest: Callable[..., None]) -> Path:
    """The same bundle as version 2."""
    folder = tmp_path / "newer"
    shutil.copytree(bundle_folder, folder)
    edit_manifest(folder, version="2")
    return folder


def test_a_good_bundle_takes_over_and_the_old_one_is_freed(front: Front, newer: Path) -> None:
    """Every swap would else leave a model in memory, and the twentieth kills the process."""
    old, session = weakref.ref(front.bundle), weakref.ref(front.bundle.model.session)
    result = asyncio.run(Swapper(front, Bundle.load).swap(newer))
    assert (result.outcome, result.serving.version, result.changes) == ("swapped", "2", ())
    assert result.previous is not None
    assert result.previous.version == "1"
    assert front.bundle.manifest.version == "2"
    gc.collect()
    assert (old(), session()) == (None, None)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The interpreter collects no circles by itself."""
    gc.disable()
    yield
    gc.enable()


def test_an_old_bundle_in_a_circle_is_freed_by_the_swap_itself(front: Front, newer: Path, uncollected: None) -> None:
    """Serving makes hardly any garbage: the next collection may be hours away, and both models in memory till then."""
    circle: list[Any] = [front.bundle]
    circle.append(circle)
    old = weakref.ref(front.bundle)
    del circle
    assert asyncio.run(Swapper(front, Bundle.load).swap(newer)).outcome == "swapped"
    assert old() is None


@pytest.mark.parametrize("damage", ["model", "golden", "manifest", "missing"])
def test_a_damaged_bundle_is_refused_and_the_old_one_serves_on(
    front: Front, newer: Path, edit_golden: Callable[..., None], damage: str
) -> None:
    """A swap is a deployment: what would not start must not take over either."""
    if damage == "model":
        with (newer / "model.fp32.onnx").open("r+b") as file:
            file.write(b"damaged")
    elif damage == "golden":
        edit_golden(newer, input_ids=[[1]] * 10)
    elif damage == "manifest":
        (newer / "manifest.json").write_text("{")
    else:
        shutil.rmtree(newer)
    before = front.bundle
    result = asyncio.run(Swapper(front, Bundle.load).swap(newer))
    assert (result.outcome, result.serving.version, result.previous) == ("refused", "1", None)
    assert len(result.reason) > 20
    assert front.bundle is before


def test_other_labels_are_refused_unless_allowed(front: Front, newer: Path) -> None:
    """Callers branch on labels: a bundle with others breaks them all at once, with status 200."""
    swapper = Swapper(front, lambda folder: _with_labels(Bundle.load(folder), ("billing", "defect", "thanks")))
    refused = asyncio.run(swapper.swap(newer))
    assert refused.outcome == "refused"
    assert "task 'intent' has another labels: billing, defect, thanks" in refused.reason
    assert "allow_changes" in refused.reason
    assert front.bundle.manifest.version == "1"
    swapped = asyncio.run(swapper.swap(newer, allow_changes=True))
    assert (swapped.outcome, len(swapped.changes)) == ("swapped", 1)
    assert swapper.last is swapped


def _with_labels(bundle: Bundle, labels: tuple[str, ...]) -> Bundle:
    first, *others = bundle.manifest.tasks
    tasks = (msgspec.structs.replace(first, labels=labels), *others)
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, tasks=tasks), bundle.artifact, bundle.model)


def test_only_one_swap_runs_at_a_time(front: Front, newer: Path) -> None:
    """Three bundles in memory at once are one too many for the container's limit."""
    inside, release = threading.Event(), threading.Event()

    def slow(folder: Path) -> Bundle:
        inside.set()
        assert release.wait(30)
        return Bundle.load(folder)

    async def both() -> None:
        swapper = Swapper(front, slow)
        first = asyncio.create_task(swapper.swap(newer))
        await asyncio.to_thread(inside.wait, 30)
        with pytest.raises(SwapInProgress):
            await swapper.swap(newer)
        release.set()
        assert (await first).outcome == "swapped"
        assert (await swapper.swap(newer)).outcome == "swapped"

    asyncio.run(both())


def test_a_server_that_is_loading_cannot_be_swapped(bundle_folder: Path, newer: Path) -> None:
    """The first load would overwrite the swap's result when it ends; and a swap that came too early blocks no other."""
    front, loaded = Front(), []

    def load(folder: Path) -> Bundle:
        loaded.append(folder)
        return Bundle.load(folder)

    swapper = Swapper(front, load)
    with pytest.raises(NotReady):
        asyncio.run(swapper.swap(newer))
    assert loaded == [], "a second model in memory beside the one that is being loaded"
    front.open(SwappableEngine(Bundle.load(bundle_folder)))
    assert asyncio.run(swapper.swap(newer)).outcome == "swapped"


def test_what_the_engine_refuses_is_refused_with_its_reason(
    front: Front, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that the warm-up finds unfit is called swapped, or is a failure of ours, while the old one serves."""

    async def refuse(new_bundle: Bundle) -> None:
        raise UserError("a neighbour changes the answers")

    monkeypatch.setattr(front.engine, "swap", refuse)
    result = asyncio.run(Swapper(front, Bundle.load).swap(newer))
    assert (result.outcome, result.reason) == ("refused", "a neighbour changes the answers")
    assert (result.serving.version, result.previous) == ("1", None)


def test_the_seconds_of_loading_are_not_those_of_the_hand_over(
    front: Front, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk would be read as requests that stood still during the swap."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(serving.operations.swap, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def load(folder: Path) -> Bundle:
        clock.now += 5.0
        return Bundle.load(folder)

    async def hand_over(new_bundle: Bundle) -> None:
        clock.now += 0.25

    monkeypatch.setattr(front.engine, "swap", hand_over)
    result = asyncio.run(Swapper(front, load).swap(newer))
    assert (result.load_seconds, result.flip_seconds) == (5.0, 0.25)


def manifest(front: Front, *tasks: TaskSpec, **inputs: object) -> Manifest:
    """The front's manifest with other tasks and inputs."""
    own = front.bundle.manifest
    return msgspec.structs.replace(own, tasks=tasks, inputs=msgspec.structs.replace(own.inputs, **inputs))


def test_every_change_that_callers_notice_is_named(front: Front) -> None:
    """An overlooked kind of change is an incompatible swap that is called compatible."""
    old = front.bundle.manifest
    intent, topics, urgency = old.tasks
    replace = msgspec.structs.replace
    for new, words in [
        (manifest(front, intent, topics), ["'urgency' is gone"]),
        (manifest(front, intent, topics, urgency, replace(intent, name="tone")), ["'tone' is new"]),
        (manifest(front, replace(intent, type="multilabel"), topics, urgency), ["another type"]),
        (manifest(front, replace(intent, labels=intent.labels[::-1]), topics, urgency), ["another labels"]),
        (manifest(front, intent, topics, replace(urgency, range=(0.0, 1.0))), ["another range"]),
        (manifest(front, *old.tasks, text_columns=("a", "b")), ["it reads a, b instead of text"]),
        (manifest(front, *old.tasks, text_columns=("message",)), ["it reads message instead of text"]),
        (manifest(front, *old.tasks, truncation_side="left"), ["cut on the left"]),
        (replace(old, name="other"), ["called 'other' instead of 'toy'"]),
        (manifest(front, *old.tasks, max_length=7), ["below 8"]),
    ]:
        changes = visible_changes(old, new)
        assert len(changes) == len(words)
        assert words[0] in changes[0]


def test_pairs_the_other_way_round_are_noticed(pair_bundle_folder: Path, edit_manifest: Callable[..., None]) -> None:
    """Every premise would be read as a hypothesis, and answered with 200."""
    old = read_manifest(pair_bundle_folder)
    inputs = msgspec.structs.replace(old.inputs, text_columns=old.inputs.text_columns[::-1])
    (change,) = visible_changes(old, msgspec.structs.replace(old, inputs=inputs))
    assert change == "it reads hypothesis, premise instead of premise, hypothesis"


def test_a_graph_that_raises_is_refused_with_its_reason(front: Front, newer: Path, monkeypatch: Any) -> None:
    """Hashes say nothing of a graph that was exported broken; an exception would be an answer without a reason."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("indices element out of data bounds\nat node Gather")

    old = front.bundle
    monkeypatch.setattr(OnnxModel, "run", fail)
    result = asyncio.run(Swapper(front, Bundle.load).swap(newer))
    assert result.outcome == "refused"
    assert result.reason == (
        "model.fp32.onnx fails on the golden examples: indices element out of data bounds. "
        "Copy or export the bundle again."
    )
    assert front.bundle is old


def test_a_thousand_labels_do_not_fill_the_answer(front: Front) -> None:
    """The reason is read by people, in a log line and in a terminal."""
    intent, *others = front.bundle.manifest.tasks
    many = msgspec.structs.replace(intent, labels=tuple(f"label {number}" for number in range(1000)))
    (change,) = visible_changes(front.bundle.manifest, manifest(front, many, *others))
    assert "label 0, label 1" in change
    assert len(change) < 300


def test_what_callers_do_not_notice_is_no_change(front: Front) -> None:
    """Refusing a retrained model with another temperature would make every swap an exception."""
    intent, topics, urgency = front.bundle.manifest.tasks
    replace = msgspec.structs.replace
    new = manifest(
        front,
        replace(topics, thresholds=(0.1, 0.2)),
        replace(intent, temperature=2.0, output="other"),
        urgency,
        max_length=16,
    )
    assert visible_changes(front.bundle.manifest, new) == ()
