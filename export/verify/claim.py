"""One claim of a bundle and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from serving.errors import BundleError

Status = Literal["checked", "failed", "not checkable here"]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One claim of a bundle.

    Attributes:
        name: what is claimed, for example `model.int8.onnx: sha256`.
        status: checked, failed, or not checkable here.
        detail: what was found, or what it would take to check it.
    """

    name: str
    status: Status
    detail: str


def checked(name: str, detail: str) -> Claim:
    """A claim that holds."""
    return Claim(name=name, status="checked", detail=detail)


def failed(name: str, detail: str) -> Claim:
    """A claim that does not hold."""
    return Claim(name=name, status="failed", detail=detail)


def unchecked(name: str, detail: str) -> Claim:
    """A claim that cannot be checked here; the detail says what it would take."""
    return Claim(name=name, status="not checkable here", detail=detail)


def decided(name: str, detail: str, *, holds: bool) -> Claim:
    """Checked where it holds, failed where it does not."""
    return checked(name, detail) if holds else failed(name, detail)


def equal(name: str, expected: object, find: Callable[[], object]) -> Claim:
    """Checked when what is found equals what is claimed; a file that cannot be read fails its claim."""
    try:
        found = find()
    except (OSError, ValueError, KeyError, TypeError, BundleError) as error:
        return failed(name, f"cannot be read: {error}")
    if found == expected:
        return checked(name, f"{found}")
    return failed(name, f"claimed {expected}, found {found}")
