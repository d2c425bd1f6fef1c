"""Hot swap: another bundle takes over without a failed request, or is refused with the reason.

The new bundle is loaded and proved (hashes, golden examples) beside the old one, in a thread; then one
assignment sends new work to it. Until the old one's last requests have ended, both are in memory.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from serving.bundle import Bundle
from serving.errors import UserError
from serving.manifest import Manifest
from serving.operations.front import Front


class BundleName(msgspec.Struct, frozen=True):
    """Which bundle: its folder, its name and version in the manifest, and the artifact's precision and hash."""

    folder: str
    name: str
    version: str
    precision: str
    sha256: str

    @classmethod
    def of(cls, bundle: Bundle) -> BundleName:
        """The name of a loaded bundle."""
        manifest, artifact = bundle.manifest, bundle.artifact
        return cls(str(bundle.folder), manifest.name, manifest.version, artifact.precision, artifact.sha256)


class SwapResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a swap came to.

    Attributes:
        outcome: `swapped`, or `refused`: the old bundle serves on.
        reason: why it was refused; empty after a swap.
        changes: what callers would notice in requests or answers.
        serving: the bundle that serves now.
        previous: the bundle that served before; None when it still does.
        load_seconds: to load and prove the new bundle.
        flip_seconds: to hand over.
    """

    outcome: Literal["swapped", "refused"]
    reason: str = ""
    changes: tuple[str, ...] = ()
    serving: BundleName
    previous: BundleName | None = None
    load_seconds: float
    flip_seconds: float = 0.0


class SwapInProgress(Exception):
    """Another swap has not ended yet."""


class Swapper:
    """Swaps the bundle of a front, one swap at a time."""

    def __init__(self, front: Front, load: Callable[[Path], Bundle]) -> None:
        """Take the front, and how a bundle is loaded and proved (in a thread; UserError refuses it)."""
        self._front = front
        self._load = load
        self._is_busy = False
        self.last: SwapResult | None = None

    async def swap(self, folder: Path, *, allow_changes: bool = False) -> SwapResult:
        """Serve another bundle from now on, or say why not.

        Args:
            folder: the new bundle.
            allow_changes: accept what callers would notice: see `visible_changes`.

        Raises:
            SwapInProgress: a swap is under way.
            NotReady: the first bundle is not loaded yet.
        """
        if self._is_busy:
            raise SwapInProgress("another swap is under way")
        self._is_busy = True
        try:
            self.last = await self._swap(folder, allow_changes)
        finally:
            self._is_busy = False
        gc.collect()  # the old session leaves memory now, not at some later collection
        return self.last

    async def _swap(self, folder: Path, allow_changes: bool) -> SwapResult:
        old = self._front.bundle
        start = time.monotonic()
        try:
            new = await asyncio.to_thread(self._load, folder)
        except UserError as error:
            return self._refused(str(error), (), start)
        changes = visible_changes(old.manifest, new.manifest)
        if changes and not allow_changes:
            reason = f'callers would notice: {"; ".join(changes)}. Send "allow_changes": true to swap all the same'
            return self._refused(reason, changes, start)
        loaded = time.monotonic()
        try:
            await self._front.engine.swap(new)
        except UserError as error:
            return self._refused(str(error), changes, start)
        return SwapResult(
            outcome="swapped",
            changes=changes,
            serving=BundleName.of(new),
            previous=BundleName.of(old),
            load_seconds=loaded - start,
            flip_seconds=time.monotonic() - loaded,
        )

    def _refused(self, reason: str, changes: tuple[str, ...], start: float) -> SwapResult:
        serving = BundleName.of(self._front.bundle)
        seconds = time.monotonic() - start
        return SwapResult(outcome="refused", reason=reason, changes=changes, serving=serving, load_seconds=seconds)


def visible_changes(old: Manifest, new: Manifest) -> tuple[str, ...]:
    """What callers notice when a bundle replaces another: its name, tasks, labels in order, ranges, what it reads.

    Columns count by name and order: inputs of the Open Inference Protocol are called so, and pairs read the
    other way round would be answered all the same.
    """
    before = {task.name: task for task in old.tasks}
    after = {task.name: task for task in new.tasks}
    changes = [f"task '{name}' is gone" for name in before if name not in after]
    changes += [f"task '{name}' is new" for name in after if name not in before]
    for name in (name for name in before if name in after):
        for field in ("type", "labels", "range"):
            was, becomes = getattr(before[name], field), getattr(after[name], field)
            if was != becomes:
                changes.append(f"task '{name}' has another {field}: {_shown(becomes)} instead of {_shown(was)}")
    if old.name != new.name:
        changes.append(f"the model, and its path under /v2, is called '{new.name}' instead of '{old.name}'")
    if old.inputs.text_columns != new.inputs.text_columns:
        changes.append(f"it reads {_shown(new.inputs.text_columns)} instead of {_shown(old.inputs.text_columns)}")
    if old.inputs.truncation_side != new.inputs.truncation_side:
        changes.append(f"long texts are cut on the {new.inputs.truncation_side} instead of the other side")
    if new.inputs.max_length < old.inputs.max_length:
        changes.append(f"max_length is {new.inputs.max_length}, below {old.inputs.max_length}: more texts are cut")
    return tuple(changes)


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
