"""The model card against the manifest: every figure of its tables must be the manifest's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from export.card import CARD_FILE, FIGURES, as_cell
from export.verify.claim import Claim, checked, decided, failed, unchecked
from serving.manifest import Manifest

Row = Mapping[str, str]


def card_claims(folder: Path, manifest: Manifest) -> Iterator[Claim]:
    """One claim per table; the rest of the card is free text."""
    try:
        text = (folder / CARD_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield unchecked(f"{CARD_FILE} says what the manifest says", f"it cannot be read: {error}")
        return
    if said := manifest.provenance.get("intended_use"):
        yield decided(f"{CARD_FILE}: the intended use", "it repeats the recipe's words", holds=str(said) in text)
    for title, figures in FIGURES.items():
        yield _table_claim(title, read_table(text, title), figures(manifest))


def read_table(text: str, title: str) -> list[dict[str, str]]:
    """The rows of the first Markdown table below a heading of the second level; none where there is no table.

    Args:
        text: of the card.
        title: of the heading.
    """
    _, _, section = text.partition(f"\n## {title}\n")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=False)) for row in cells[2:]]


def _table_claim(title: str, found: Sequence[Row], expected: Sequence[Row]) -> Claim:
    name = f"{CARD_FILE}: '{title}' says what the manifest says"
    if len(found) != len(expected):
        return failed(name, f"it has {len(found)} rows, the manifest {len(expected)}")
    for number, (row, wanted) in enumerate(zip(found, expected, strict=True), start=1):
        for column, value in wanted.items():
            if row.get(column) != as_cell(value):
                return failed(name, f"row {number} has {row.get(column)!r} as {column}, the manifest {value!r}")
    return checked(name, f"all {len(expected)} rows")
