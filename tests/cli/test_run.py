"""`compressor run`: what a run leaves, what a second call repeats, and every kind of recipe from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compressor.data.splits import load_task_data

PROVING = {"measurements", "bundle", "figures-artifacts", "confidence", "benchmark"}
EXPORTED = {"candidate", "quantisation", *PROVING}
BUNDLE_FILES = {
    "README.md", "config.json", "golden.json", "manifest.json", "model.fp32.onnx", "model.int8.onnx",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def test_report_json_holds_every_promised_field(toy_run: Any) -> None:
    """Catches a program that reads a report and finds a promised figure missing."""
    report = toy_run.report()
    models = [report["teacher"], report["student"], report["controls"]["none"]]
    assert list(report["controls"]) == ["none"]
    for model in models:
        assert {"parameters", "encoder_parameters", "bytes"} <= model.keys()
        assert 0 < model["encoder_parameters"] < model["parameters"]
        figures = model["tasks"]["topic"]
        assert figures["metric"] == "accuracy"
        assert figures["low"] <= figures["value"] <= figures["high"]
    assert report["student"]["encoder_parameters"] < report["teacher"]["encoder_parameters"]
    assert [artifact["precision"] for artifact in report["artifacts"]] == ["fp32", "int8"]
    for artifact in report["artifacts"]:
        assert (toy_run.run / "bundle" / artifact["file"]).stat().st_size == artifact["bytes"]
        assert artifact["parity"]["topic"]["max_difference"] >= 0
        assert artifact["tasks"]["topic"]["low"] <= artifact["tasks"]["topic"]["value"]
    for gate in report["gates"]:
        assert {"limit", "measured", "low", "high", "verdict"} <= gate.keys()
    assert {gate["name"] for gate in report["gates"]} == {
        "export_tokens", "export_logit_difference", "export_weights", "batch_invariance", "quantisation_metric_drop",
    }  # fmt: skip
    assert [rung["rung"] for rung in report["ladder"]] == ["tokens", "plain", "fp32", "int8"]
    assert all(rung["passed"] for rung in report["ladder"])
    assert report["intervals_over"] == "examples"
    assert report["environment"]["cpus"] >= 1


def test_every_measurement_row_names_its_cell(toy_run: Any) -> None:
    """Catches a latency without the device, precision, threads or batch that it was measured with."""
    rows = toy_run.report()["measurements"]
    wanted = {
        "variant", "runtime", "device", "precision", "threads", "batch_size", "p50_ms", "p95_ms", "p99_ms", "samples",
        "texts_per_second",
    }  # fmt: skip
    assert all(wanted <= row.keys() and row["p50_ms"] > 0 and row["samples"] > 0 for row in rows)
    cells = {(row["runtime"], row["precision"]) for row in rows}
    assert {("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")} <= cells
    assert any(row["variant"].startswith("teacher") for row in rows)


def test_the_run_folder_links_to_whole_stages(toy_run: Any) -> None:
    """Catches a link that points nowhere, and half a stage that is taken for a whole one."""
    for name in ("teacher", "student", "controls/none", "bundle"):
        link = toy_run.run / name
        assert link.is_symlink()
        assert not Path(link.readlink()).is_absolute()  # the folder can be moved
        assert link.is_dir()
    for name in ("recipe.yaml", "environment.json", "log.jsonl", "report.html"):
        assert (toy_run.run / name).stat().st_size > 0
    assert not list((toy_run.run / "stages").glob("*.partial"))
    events = [json.loads(line)["event"] for line in (toy_run.run / "log.jsonl").read_text().splitlines()]
    assert (events[0], events[-1]) == ("run started", "run finished")


@pytest.mark.parametrize(("name", "layers"), [("teacher", 4), ("student", 2), ("controls/none", 2)])
def test_checkpoints_load_in_transformers(toy_run: Any, name: str, layers: int) -> None:
    """Catches a checkpoint that only this project can read, or whose labels are numbers."""
    model, loading = AutoModelForSequenceClassification.from_pretrained(toy_run.run / name, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.num_hidden_layers == layers
    assert sorted(model.config.id2label.values()) == ["account", "billing", "delivery"]
    assert AutoTokenizer.from_pretrained(toy_run.run / name)("refund").input_ids


def test_a_bundle_holds_what_a_server_needs_and_nothing_else(toy_run: Any) -> None:
    """Catches training data, checkpoints or logs that leave the house inside a bundle."""
    assert {path.name for path in (toy_run.run / "bundle").iterdir()} == BUNDLE_FILES


def test_a_second_call_repeats_nothing(own_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches hours of training done again because nothing changed."""
    before = own_run.stages()
    done = compressor("run", own_run.run)
    assert done.code == 0, done.err
    assert own_run.new_stages(before) == set()
    lines = [line for line in done.err.splitlines() if line[:1] in "=>"]
    assert lines
    assert all("done before" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("benchmark.rounds=4", {"benchmark"}),
        ("gates.export_logit_difference=1e-3", PROVING),
        ("gates.quantisation_metric_drop=0.6", EXPORTED),
        ("export.precisions=[fp32]", EXPORTED - {"quantisation"}),
        ("method=none", EXPORTED),  # the control has trained this student already
        (
            "method={kd: {temperature: 3}}",
            {"student-kd_temperature=3", "figures-student-kd_temperature=3", *EXPORTED},
        ),
    ],
)
def test_a_changed_field_reruns_only_what_depends_on_it(
    own_run: Any, compressor: Callable[..., Any], change: str, expected: set[str]
) -> None:
    """Catches a stale result that is kept, and a teacher that is trained again for a benchmark setting."""
    before = own_run.stages()
    done = compressor("run", own_run.run, "--set", change)
    assert done.code == 0, done.err
    assert own_run.new_stages(before) == expected


def test_links_of_an_earlier_method_do_not_stay(own_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches a control that stands in the folder although the report is not about it."""
    compressor("distill", own_run.run, "--set", "method=none")
    assert not list((own_run.run / "controls").iterdir())
    assert "student-none" in str((own_run.run / "student").readlink())


def test_an_output_folder_of_another_run_is_refused_and_kept(own_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches two runs that overwrite each other's reports."""
    kept = {path.name: path.read_bytes() for path in own_run.run.iterdir() if path.is_file()}
    other = compressor("run", own_run.write(name="other"), "--output", own_run.run)
    assert other.code == 2
    assert "belongs to run 'toy'" in other.error
    tasks = {"mood": {"data": str(own_run.data), "text": "text", "label": "topic"}}
    assert compressor("run", own_run.write(tasks=tasks), "--output", own_run.run).code == 2
    assert {path.name: path.read_bytes() for path in own_run.run.iterdir() if path.is_file()} == kept


def test_a_bad_recipe_leaves_the_recipe_of_the_finished_run(own_run: Any, compressor: Callable[..., Any]) -> None:
    """Catches a typo that makes a finished run unreadable: its recipe no longer names its stages."""
    kept = (own_run.run / "recipe.yaml").read_bytes()
    for change in ("tasks.topic.label=nothing", "tasks.topic.data=gone.csv", "training.device=abacus"):
        assert compressor("run", own_run.run, "--set", change).code == 2
    assert (own_run.run / "recipe.yaml").read_bytes() == kept
    assert compressor("report", own_run.run).code == 0


def test_run_without_a_recipe_writes_the_one_it_used(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a run of which nobody can say how it was made."""
    sets = [f"training.{key}={value}" for key, value in {"epochs": 1, "threads": 1, "dtype": "fp32"}.items()]
    sets += ["gates.quantisation_metric_drop=0.5", "benchmark={rounds: 3, texts: 8, threads: [1], batch_sizes: [1]}"]
    options = ["--data", toy.data, "--text", "text", "--label", "topic", "--teacher", toy.model]
    options += ["--student-layers", 2, "--method", "none", "--allow-inconclusive", "--json"]
    options += [word for change in sets for word in ("--set", change)]
    done = compressor("run", *options)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    folder = Path("runs/toy")
    assert json.loads((folder / "report.json").read_text())["recipe"] == report["recipe"]
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert written["tasks"]["topic"]["label"] == "topic"
    assert written["method"] == {"none": {}}
    again = compressor("run", folder / "recipe.yaml", "--output", folder)
    assert again.code == 0
    assert all("done before" in line for line in again.err.splitlines() if line[:1] in "=>")


def test_a_shared_store_is_found_again_without_naming_it(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a run in a shared store that `report` and a second call take for unfinished."""
    store = toy.folder / "store"
    assert compressor("run", toy.recipe, "--output", toy.run, "--stages", store).code == 0
    assert compressor("report", toy.run).code == 0
    again = compressor("run", toy.write(name="twin"), "--output", toy.folder / "twin", "--stages", store)
    assert again.code == 0
    assert "fine-tuning the teacher for topic: done before" in again.err


@pytest.mark.slow  # tests/cli/test_multitask.py looks at a run of the same task types
def test_tasks_of_three_types_share_one_student_through_the_whole_chain(
    toy: Any, compressor: Callable[..., Any]
) -> None:
    """Catches a place in the house that takes the first task for the only one."""
    tasks = {
        name: {"data": str(toy.data), "text": "text", "label": label}
        for name, label in {"type": "topic", "urgency": "urgency", "flags": "flags"}.items()
    }
    recipe = toy.write(tasks=tasks, gates={"allow_inconclusive": True, "quantisation_metric_drop": 5.0})
    done = compressor("run", recipe, "--output", toy.run, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert {name: task["type"] for name, task in report["tasks"].items()} == {
        "type": "classification", "urgency": "regression", "flags": "multilabel",
    }  # fmt: skip
    assert report["teacher"]["count"] == 3
    for part in (report["teacher"], report["student"], report["controls"]["none"], *report["artifacts"]):
        assert part["tasks"].keys() == tasks.keys()
    assert {path.name for path in (toy.run / "teacher").iterdir()} == tasks.keys()
    answer = json.loads(compressor("predict", toy.run / "bundle", "late refund", "--json").out)["answers"]
    assert answer["type"]["label"] in {"billing", "delivery", "account"}
    assert -5.0 <= answer["urgency"]["value"] <= 10.0
    assert set(answer["flags"]["scores"]) == {"angry", "polite"}
    one = compressor("predict", toy.run / "bundle", "late refund", "--task", "urgency", "--json")
    assert json.loads(one.out)["answers"].keys() == {"urgency"}
    assert compressor("verify", toy.run / "bundle", "--run", toy.run).code == 0


def test_text_pairs_go_through_the_whole_chain(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a pair whose second text is dropped, or a first and second text that are swapped."""
    rows = [json.loads(line) for line in toy.data.read_text().splitlines()]
    pairs = [
        {"first": f"a{index} {rows[index]['text']}", "second": f"b{index} order", "same": str(index % 2 == 0)}
        for index in range(200)
    ]
    task = {"data": str(toy.write_data(pairs, "pairs.jsonl")), "text": ["first", "second"], "label": "same"}
    done = compressor("run", toy.write(tasks={"same": task}), "--output", toy.run)
    assert done.code == 0, done.err
    bundle = toy.run / "bundle"
    answers = [
        json.loads(compressor("predict", bundle, text, "--json").out)["answers"]["same"]["scores"]
        for text in ("late refund\torder", "order\tlate refund", "late refund\tmoney")
    ]
    assert answers[0] != answers[1]
    assert answers[0] != answers[2]
    assert "pair" in compressor("predict", bundle, "late refund").error


def accuracy_by_name(run: Any, teacher: Path) -> float:
    """Accuracy on the run's test rows, asked of transformers alone, labels compared as words."""
    data = load_task_data(next((run.run / "stages").glob("data-*")) / "topic")
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    inputs = tokenizer([text for (text,) in data.splits["test"].texts], padding=True, return_tensors="pt")
    with torch.inference_mode():
        answers = model(**inputs).logits.argmax(dim=1).tolist()
    labels = data.splits["test"].labels
    assert labels is not None
    right = [
        model.config.id2label[answer] == data.task.labels[label] for answer, label in zip(answers, labels, strict=True)
    ]
    return float(np.mean(right))


@pytest.mark.parametrize("init", ["pretrained", "teacher"])
def test_a_teacher_taken_as_it_is_is_matched_by_label_names(
    toy: Any, skilled: Path, compressor: Callable[..., Any], init: str
) -> None:
    """Catches columns matched by position: the teacher would look useless and teach nonsense."""
    recipe = toy.write(teacher={"model": str(skilled), "train": False}, student={"layers": 2, "init": init})
    done = compressor("run", recipe, "--output", toy.run)
    assert done.code == 0, done.err
    report = toy.report()
    accuracy = report["teacher"]["tasks"]["topic"]["value"]
    assert accuracy == pytest.approx(accuracy_by_name(toy, skilled))
    assert accuracy > 0.6
    assert report["teacher"]["kind"] == "checkpoint"


def predictions_for(toy: Any) -> Path:
    """Stored probabilities that are right about every text, with columns in an order of their own."""
    rows = [json.loads(line) for line in toy.data.read_text().splitlines()]
    labels = ("delivery", "billing", "account")
    stored = [
        {"text": row["text"], **{label: 0.9 if label == row["topic"] else 0.05 for label in labels}} for row in rows
    ]
    path: Path = toy.write_data(stored, "predictions.jsonl")
    return path


def test_stored_predictions_replace_the_teacher(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches predictions joined to the wrong texts, or to the wrong labels."""
    teacher = {"model": None, "predictions": str(predictions_for(toy))}
    recipe = toy.write(teacher=teacher, student={"model": str(toy.model), "layers": 2})
    done = compressor("run", recipe, "--output", toy.run)
    assert done.code == 0, done.err
    report = toy.report()
    assert report["teacher"]["kind"] == "predictions"
    assert report["teacher"]["tasks"]["topic"]["value"] == 1.0
    assert report["teacher"]["bytes"] is None


def test_a_student_with_another_tokenizer_reads_its_own_tokens(
    toy: Any, checkpoint: Callable[..., Path], compressor: Callable[..., Any]
) -> None:
    """Catches a student fed with the ids of its teacher's vocabulary."""
    other = checkpoint("distilbert")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {w: i if i < 4 else len(words) + 3 - i for w, i in words.items()}  # reversed
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    rows = [json.loads(line) for line in toy.data.read_text().splitlines()]
    unlabelled = toy.folder / "traffic.txt"
    unlabelled.write_text("".join(f"my {row['text']} please\n" for row in rows[:50]))
    task = {"data": str(toy.data), "text": "text", "label": "topic", "unlabelled": str(unlabelled)}
    recipe = toy.write(tasks={"topic": task}, student={"model": str(other), "layers": [0, 3]})
    done = compressor("run", recipe, "--output", toy.run)
    assert done.code == 0, done.err
    served = json.loads((toy.run / "bundle" / "tokenizer.json").read_text())["model"]["vocab"]
    assert served["thanks"] == 4
    report = toy.report()
    assert report["tasks"]["topic"]["rows"]["unlabelled"] == 50
    assert report["student"]["layers"] == 2
    targets = next((toy.run / "stages").glob("targets-topic-*")) / "targets.npy"
    assert len(np.load(targets)) == report["tasks"]["topic"]["rows"]["train"] + 50
