"""The corpora that come with the package, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

CORPORA: Mapping[str, Path] = MappingProxyType(
    {
        "supportdesk": Path(__file__).parent / "corpora" / "supportdesk",
    }
)
