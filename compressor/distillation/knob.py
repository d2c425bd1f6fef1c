"""How a knob is declared and checked."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def knob(default: Any, help_text: str) -> Any:
    """A field with a default and the text that `--help` and the docs show."""
    return field(default=default, metadata={"help": help_text})


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """ValueError unless the condition holds: what the knob is and what was expected."""
    if not condition:
        raise ValueError(f"{name} is {value}, expected {expected}")
