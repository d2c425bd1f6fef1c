"""The comparison with optimum-onnx: the right pairs, honest words, and a peer that is played by our own graphs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from benchmarks import peer_checkpoints, peer_optimum
from benchmarks.peer_checkpoints import ARCHITECTURES, DEFAULT_ARCHITECTURES, Shape, cut_built_in, make_checkpoint
from benchmarks.peer_optimum import main
from benchmarks.peer_table import describe

TINY = Shape(layers=1, width=32)


@pytest.fixture(autouse=True)
def _toy_built_in(toy_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_checkpoints, "BUILT_IN", str(toy_checkpoint))


def test_five_architectures_are_compared() -> None:
    """One architecture says little about the others: fusion and positions differ."""
    assert len(DEFAULT_ARCHITECTURES) == 5
    assert set(DEFAULT_ARCHITECTURES) <= ARCHITECTURES.keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_is_the_same_at_every_call(architecture: str, tmp_path: Path) -> None:
    """Both sides must export one model, and a repeated run the same one."""
    first, second = (
        AutoModelForSequenceClassification.from_pretrained(make_checkpoint(architecture, TINY, tmp_path / name))
        for name in ("first", "second")
    )
    assert first.config.model_type == architecture
    assert first.config.num_labels == 12
    assert first.config.architectures == [type(first).__name__]
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert bool((one == other).all())


def test_the_built_in_teacher_is_cut_and_gets_a_head(tmp_path: Path) -> None:
    """All its layers would be timed under a student's name."""
    model = AutoModelForSequenceClassification.from_pretrained(cut_built_in(1, tmp_path))
    assert len(model.bert.encoder.layer) == model.config.num_hidden_layers == 1
    assert model.classifier.out_features == 12
    assert float(model.classifier.weight.detach().std()) > 0.5


def _play_peer(environment: Path, checkpoint: Path, bundle: Path, folder: Path) -> dict[str, Any]:
    """A peer with our own graphs: as fast and as right as ours; it has no O2."""
    folder.mkdir()
    assert (checkpoint / "model.safetensors").is_file()
    golden = json.loads((bundle / "golden.json").read_text())
    for precision in ("fp32", "int8"):
        shutil.copyfile(bundle / f"model.{precision}.onnx", folder / f"plain.{precision}.onnx")
    return {
        "notes": {"plain.fp32.onnx": "as shipped", "o2.fp32.onnx": "not made: no such model type"},
        "versions": {"optimum-onnx": "0.1.0"},
        "bundle": {"texts": len(golden["texts"]), "same_ids": 3, "artifacts": {"fp32": 1e-6, "int8": "KeyError: x"}},
    }


def test_a_quick_run_writes_results_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, with the peer played: the file, the table between its markers, the pairs."""
    monkeypatch.setattr(peer_optimum, "ask_peer", _play_peer)
    output, page = tmp_path / "out" / "peer.json", tmp_path / "results.md"
    page.write_text("# Results\n\n<!-- peer-export:begin -->\nold\n<!-- peer-export:end -->\n")
    places = ["--environment", tmp_path / "no", "--output", output, "--docs", page]
    main([*map(str, places), "--quick", "--architectures", "bert", "electra"])

    found = json.loads(output.read_text())
    assert list(found["architectures"]) == ["bert", "electra"]
    bert = found["architectures"]["bert"]
    assert set(bert["parity"]) == {"ours fp32", "ours int8", "plain fp32", "plain int8"}
    assert bert["parity"]["ours fp32"] == bert["parity"]["plain fp32"]
    assert bert["parity"]["ours fp32"]["max_difference"] < 1e-4 < bert["parity"]["ours int8"]["max_difference"]
    assert {(cell["precision"], cell["batch_size"], cell["peer"]) for cell in bert["ratios"]} == {
        (precision, batch, "plain") for precision in ("fp32", "int8") for batch in (1, 8)
    }
    assert {(cell["batch_size"], cell["peer"]) for cell in bert["in_use"]} == {(8, "plain")}
    text = page.read_text()
    assert "\nold\n" not in text
    assert describe(found) in text


def _found(low: float) -> dict[str, Any]:
    cell = {"precision": "int8", "batch_size": 8, "peer": "o2", "ratio": low + 0.01, "low": low, "high": low + 0.02}
    result = {
        "ratios": [cell],
        "in_use": [{**cell, "low": low + 0.2}],
        "parity": {"ours int8": {"max_difference": 0.125, "agreement": 0.5}},
        "bytes": {"ours int8": 1234},
        "peer": {
            "notes": {"o2.int8.onnx": "not made: no such model type"},
            "bundle": {"texts": 64, "same_ids": 63, "artifacts": {"fp32": 1e-6, "int8": "KeyError: x"}},
        },
    }
    host = {"cpu_model": "Some CPU", "available_cpus": 2}
    facts = {"layers": 3, "texts": 32, "rounds": 40, "goal": 0.97, "host": host, "torch": "2"}
    facts |= {"texts_in_use": 128, "goal_in_use": 1.15}
    return {**facts, "architectures": {"bert": result}}


@pytest.mark.parametrize(
    ("low", "words"),
    [
        (0.97, "1 of 1 cells reach the goal."),
        (0.969, "0 of 1 cells reach the goal. Missed: bert int8 batch 8 against o2."),
    ],
)
def test_a_missed_cell_is_named(low: float, words: str) -> None:
    """An average over cells would hide it."""
    assert words in describe(_found(low))


def test_what_the_peer_could_not_do_is_said(tmp_path: Path) -> None:
    """A graph that is not there must not look like one that lost."""
    text = describe(_found(1.0))
    assert "- bert, o2.int8.onnx: not made: no such model type" in text
    assert "| bert | 63 of 64 | 1e-06 | KeyError: x |" in text
    assert "| bert | ours int8 | 1,234 | 0.12 | 50.0% |" in text
