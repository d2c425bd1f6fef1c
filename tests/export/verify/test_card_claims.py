"""The model card: what it must say, and that a doctored one is found."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from export.card import FIGURES, model_card
from export.verify import verify
from export.verify.card import card_claims, read_table
from serving.claims import TargetRuntime
from serving.manifest import Manifest, read_manifest


def _failed(folder: Path) -> list[str]:
    return [claim.name for claim in card_claims(folder, read_manifest(folder)) if claim.status == "failed"]


def test_an_honest_card_has_every_table_checked(bundle_folder: Path) -> None:
    """A table that was not found must not pass for one without lies."""
    claims = list(card_claims(bundle_folder, read_manifest(bundle_folder)))
    assert [claim.status for claim in claims] == ["checked"] * len(FIGURES)
    card = (bundle_folder / "README.md").read_text(encoding="utf-8")
    assert len(read_table(card, "Measured")) == 3
    assert len(read_table(card, "Gates")) == len(read_manifest(bundle_folder).gates) > 0


def _cells(card: str) -> list[str]:
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    cells = {cell for row in rows for cell in row.strip("| ").split(" | ")}
    return sorted(cell for cell in cells if re.search(r"\d", cell))


def test_every_figure_of_the_tables_is_held_against_the_manifest(bundle_folder: Path) -> None:
    """A card is what a buyer reads; one digit changed by hand there changes nothing that a server reads."""
    path = bundle_folder / "README.md"
    card = path.read_text(encoding="utf-8")
    tables = card[card.index("## Data and models") : card.index("## Check it")]
    cells = _cells(tables)
    assert len(cells) > 12
    for cell in cells:
        digit = re.search(r"\d", cell)
        assert digit is not None
        doctored = cell[: digit.start()] + str((int(digit[0]) + 1) % 10) + cell[digit.end() :]
        path.write_text(card.replace(tables, tables.replace(f"| {cell} |", f"| {doctored} |", 1)), encoding="utf-8")
        assert _failed(bundle_folder), f"{cell} became {doctored}"


@pytest.mark.parametrize(
    ("old", "new", "table"),
    [
        ("| passed |", "| failed |", "Gates"),
        ("accuracy ", "macro_f1 ", "Measured"),
        ("| fp32 |", "| fp16 |", "Measured"),
    ],
)
def test_words_of_the_tables_are_held_against_the_manifest_too(
    bundle_folder: Path, old: str, new: str, table: str
) -> None:
    """A verdict is a word."""
    path = bundle_folder / "README.md"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    assert _failed(bundle_folder) == [f"README.md: '{table}' says what the manifest says"]


def test_a_row_too_many_or_too_few_fails(bundle_folder: Path) -> None:
    """A failed gate is hidden by leaving it out."""
    path = bundle_folder / "README.md"
    lines = path.read_text(encoding="utf-8").splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("| export_logit_difference"))
    path.write_text("\n".join(lines[:place] + lines[place + 1 :]) + "\n", encoding="utf-8")
    assert _failed(bundle_folder) == ["README.md: 'Gates' says what the manifest says"]
    path.write_text("\n".join([*lines[: place + 1], *lines[place:]]) + "\n", encoding="utf-8")
    assert _failed(bundle_folder) == ["README.md: 'Gates' says what the manifest says"]


def test_free_text_may_be_added(bundle_folder: Path) -> None:
    """A card that nobody may write into is a card that nobody reads."""
    path = bundle_folder / "README.md"
    text = path.read_text(encoding="utf-8") + "\n## Notes\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    path.write_text(text.replace("## Limits\n", "## Limits\n\n- Ask Ann before you use it.\n"), encoding="utf-8")
    assert not _failed(bundle_folder)


def test_a_missing_card_is_said_and_does_not_fail(bundle_folder: Path) -> None:
    """Nothing is claimed by a card that is not there."""
    (bundle_folder / "README.md").unlink()
    (claim,) = [claim for claim in verify(bundle_folder) if claim.name.startswith("README.md")]
    assert claim.status == "not checkable here"


def _with(manifest: Manifest, **provenance: object) -> str:
    return model_card(msgspec.structs.replace(manifest, provenance=provenance), "synthetic")


def test_the_card_says_where_it_comes_from_and_what_it_is_for(bundle_folder: Path) -> None:
    """Without names and hashes of the data nobody can tell whether the figures are about theirs."""
    splits = {"train": {"rows": 12, "sha256": "ab"}, "source": {"rows": 30, "sha256": "ef", "name": "shop.csv"}}
    data = {"intent": {"name": "desk.csv", "measured_on": "validation", "splits": splits}}
    card = _with(read_manifest(bundle_folder), intended_use="Routing tickets.", data=data, models={"student": "cd"})
    assert "## Intended use\n\nRouting tickets." in card
    rows = read_table(card, "Data and models")
    assert rows[0] == {"what": "intent: train", "from": "desk.csv", "rows": "12", "sha256": "ab"}
    assert rows[1] == {"what": "intent: source", "from": "shop.csv", "rows": "30", "sha256": "ef"}
    assert rows[2]["what"] == "student"
    assert rows[2]["sha256"] == "cd"


def test_the_card_says_what_nobody_told_it(bundle_folder: Path) -> None:
    """A missing intended use must not read like an unlimited one."""
    card = _with(read_manifest(bundle_folder))
    assert "has not said what it is for" in card
    assert "Nobody has recorded where it comes from." in card


def test_the_card_names_what_was_not_measured(bundle_folder: Path) -> None:
    """Silence reads like a pass."""
    manifest = read_manifest(bundle_folder)
    untimed = tuple(msgspec.structs.replace(a, latency_seconds=None) for a in manifest.artifacts)
    target = TargetRuntime(runtime="1.17.3", opset=17, ir_version=8, is_verified=False, detail="not installable: no")
    card = model_card(msgspec.structs.replace(manifest, artifacts=untimed, target=target), "validation")
    missing = card[card.index("## Not measured") :]
    assert "GPUs" in missing
    assert "The time of fp32, int8." in missing
    assert "onnxruntime 1.17.3, which it was made for." in missing
    assert "onnxruntime 1.17.3 (reads opset 17, IR version 8): not verified: not installable: no" in card
    assert "real texts of the validation split" in card


def test_every_claim_of_the_card_comes_with_how_to_check_it(bundle_folder: Path) -> None:
    """A claim that cannot be checked is an advertisement."""
    rows = read_table((bundle_folder / "README.md").read_text(encoding="utf-8"), "Check it")
    assert len(rows) >= 6
    assert all("compressor verify" in row["how to check it"] for row in rows)
