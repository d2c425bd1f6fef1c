"""Several tasks in one student, from the recipe to every command that reads its bundle."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

TASKS = {"topic": "topic", "urgency": "urgency", "flags": "flags"}
GATES = {"allow_inconclusive": True, "quantisation_metric_drop": 5.0}
LAYERS = 2
CHEAP = {"method": "none", "export": {"precisions": ["fp32"]}}


@pytest.fixture(scope="module")
def several(
    tmp_path_factory: pytest.TempPathFactory, make_toy: Callable[[Path], Any], compressor: Callable[..., Any]
) -> Any:
    """A finished run of a classification, a regression and a multilabel task, trained by bam; for reading only."""
    toy = make_toy(tmp_path_factory.mktemp("several"))
    tasks = {name: {"data": str(toy.data), "text": "text", "label": label} for name, label in TASKS.items()}
    done = compressor("run", toy.write(name="desk", tasks=tasks, gates=GATES, method="bam"), "--output", toy.run)
    assert done.code == 0, done.err
    return toy


def graph_of(toy: Any, precision: str) -> onnx.ModelProto:
    return onnx.load(toy.run / "bundle" / f"model.{precision}.onnx")


def metric_claim(name: str, task: str) -> bool:
    """Whether a claim is about an artifact's metric of a task."""
    return name.startswith("model.") and f" of {task} is " in name


@pytest.mark.parametrize(
    ("precision", "operators"), [("fp32", {"Attention": LAYERS - 1, "Softmax": 1}), ("int8", {"Softmax": LAYERS})]
)
def test_the_bundle_of_a_run_holds_the_encoder_once(several: Any, precision: str, operators: dict[str, int]) -> None:
    """Catches a run that exports one encoder per task although the student has one; its last layer is not fused."""
    graph = graph_of(several, precision).graph
    found = Counter(node.op_type for node in graph.node)
    assert {name: found[name] for name in ("Attention", "Softmax") if found[name]} == operators
    assert [output.name for output in graph.output] == [f"logits_{task}" for task in TASKS]


def test_the_bundle_says_what_other_tools_may_expect(several: Any) -> None:
    """Catches a config.json with the labels of nobody: other tools would number the first task's outputs."""
    config = json.loads((several.run / "bundle" / "config.json").read_text())
    assert {name: task["output"] for name, task in config["tasks"].items()} == {
        task: f"logits_{task}" for task in TASKS
    }
    assert "id2label" not in config


def test_golden_examples_and_claims_stand_per_task(several: Any) -> None:
    """Catches a bundle that proves one task on loading and hopes for the others."""
    golden = json.loads((several.run / "bundle" / "golden.json").read_text())
    manifest = json.loads((several.run / "bundle" / "manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        assert golden["artifacts"][artifact["precision"]].keys() == TASKS.keys()
        assert artifact["metrics"].keys() == artifact["parity"].keys() == TASKS.keys()
    gates = {(gate["artifact"], gate["task"]) for gate in several.report()["gates"]}
    assert {(precision, task) for precision in ("fp32", "int8") for task in TASKS} <= gates


def test_predict_answers_all_tasks_or_those_asked_for(several: Any, compressor: Callable[..., Any]) -> None:
    """Catches answers to a task that nobody asked for, and an unknown one that is answered by silence."""
    bundle = several.run / "bundle"
    everything = compressor("predict", bundle, "late refund")
    assert all(f"{task}: " in everything.out for task in TASKS)
    some = compressor("predict", bundle, "late refund", "--task", "flags", "--task", "topic", "--json")
    assert list(json.loads(some.out)["answers"]) == ["flags", "topic"]
    unknown = compressor("predict", bundle, "late refund", "--task", "mood")
    assert (unknown.code, "topic, urgency, flags" in unknown.error) == (2, True)


def test_verify_measures_every_task_that_data_are_given_for(several: Any, compressor: Callable[..., Any]) -> None:
    """Catches a task whose metric is called checked although nobody gave labels for it."""
    bundle, data = several.run / "bundle", several.data
    columns = ["--text", "text", "--label", "topic=topic", "--label", "urgency=urgency"]
    given = ["--data", f"topic={data}", "--data", f"urgency={data}", *columns]
    claims = json.loads(compressor("verify", bundle, *given, "--json").out)
    details = {task: [claim["detail"] for claim in claims if metric_claim(claim["name"], task)] for task in TASKS}
    assert all("on 240 texts" in detail for task in ("topic", "urgency") for detail in details[task])
    assert all("give --data" in detail for detail in details["flags"])
    assert {task: len(found) for task, found in details.items()} == dict.fromkeys(TASKS, 2)
    labels = [claim for claim in claims if claim["name"].startswith("labels: ")]
    assert [claim["status"] for claim in labels] == ["checked"]


def test_verify_with_the_run_checks_all_of_them(several: Any, compressor: Callable[..., Any]) -> None:
    """Catches a verifier that reads the run's first task only."""
    done = compressor("verify", several.run / "bundle", "--run", several.run, "--json")
    assert done.code == 0, done.err
    claims = json.loads(done.out)
    for task in TASKS:
        assert [claim["status"] for claim in claims if metric_claim(claim["name"], task)] == ["checked"] * 2


def test_a_changed_output_name_in_the_config_fails(
    several: Any, tmp_path: Path, compressor: Callable[..., Any]
) -> None:
    """Catches two tasks swapped for other tools, while this one reads the manifest and sees nothing."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in (several.run / "bundle").iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    config = json.loads((bundle / "config.json").read_text())
    config["tasks"]["topic"]["labels"] = config["tasks"]["topic"]["labels"][::-1]
    (bundle / "config.json").write_text(json.dumps(config))
    done = compressor("verify", bundle)
    assert done.code == 3
    assert "labels: manifest and config.json agree" in done.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "DATA"], "names none of the bundle's tasks topic, urgency, flags"),
        (["--data", "mood=DATA"], "names none of the bundle's tasks"),
        (["--label", "topic"], "--data, which was not given"),
        (["--data", "topic=DATA", "--label", "topic", "--label", "flags=flags"], "is for a task without data"),
    ],
)
def test_verify_refuses_what_is_unclear(
    several: Any, compressor: Callable[..., Any], options: list[str], message: str
) -> None:
    """Catches labels that are measured against the wrong task's answers."""
    words = [word.replace("DATA", str(several.data)) for word in options]
    done = compressor("verify", several.run / "bundle", *words)
    assert (done.code, message in done.error) == (2, True), done.err


def test_a_task_is_added_later_by_a_warm_start(several: Any, tmp_path: Path, compressor: Callable[..., Any]) -> None:
    """Catches a second recipe that forgets what the first student learned, or does not say what it took along."""
    recipe = yaml.safe_load(several.recipe.read_text())
    recipe |= {"name": "desk-and-mood", "student": {"model": str(several.run / "student")}, **CHEAP}
    labels = {"mood": "topic", "topic": "topic", "urgency": "urgency"}
    recipe["tasks"] = {
        name: {"data": str(several.data), "text": "text", "label": label, "teacher": "none"}
        for name, label in labels.items()
    }
    path = tmp_path / "later.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = compressor("run", path, "--output", tmp_path / "later")
    assert done.code == 0, done.err
    assert "mood: fresh head, the earlier student answers topic, urgency, flags" in done.err
    assert "topic: head taken from the earlier student" in done.err
    report = json.loads((tmp_path / "later" / "report.json").read_text())
    taken = {head["task"]: head["is_copied"] for head in report["warm_start"]["heads"]}
    assert taken == {"mood": False, "topic": True, "urgency": True}
    assert (
        "Student and controls start where an earlier student ended" in (tmp_path / "later" / "report.html").read_text()
    )
    assert several.report()["warm_start"] is None


def test_tasks_over_pairs_share_a_student(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches pairs that lose their second text as soon as two tasks read them."""
    rows = [json.loads(line) for line in toy.data.read_text().splitlines()]
    pairs = [
        {"a": f"a{place} {row['text']}", "b": f"b{place} order", "same": str(place % 2), "near": float(place % 5)}
        for place, row in enumerate(rows[:160])
    ]
    path = toy.write_data(pairs, "pairs.jsonl")
    tasks = {
        name: {"data": str(path), "text": ["a", "b"], "label": name, "teacher": "none"} for name in ("same", "near")
    }
    tasks["near"]["type"] = "regression"
    recipe = toy.write(tasks=tasks, gates=GATES, **CHEAP)
    done = compressor("run", recipe, "--output", toy.run)
    assert done.code == 0, done.err
    bundle = toy.run / "bundle"
    given, swapped = (
        json.loads(compressor("predict", bundle, text, "--json").out)["answers"]
        for text in ("late refund\torder", "order\tlate refund")
    )
    assert given.keys() == {"same", "near"}
    assert given["same"]["scores"] != swapped["same"]["scores"]
    assert "a pair" in compressor("predict", bundle, "late refund").error
    checked = compressor("verify", bundle, "--data", f"same={path}", "--text", "a", "--label", "same")
    assert "reads pairs" in checked.error


def test_single_texts_and_pairs_in_one_student_are_refused(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a student whose tasks read different forms, of which one graph can take only one."""
    rows = [json.loads(line) for line in toy.data.read_text().splitlines()]
    path = toy.write_data([row | {"other": f"order {place}"} for place, row in enumerate(rows)], "both.jsonl")
    tasks = {
        "topic": {"data": str(path), "text": "text", "label": "topic"},
        "pair": {"data": str(path), "text": ["text", "other"], "label": "topic"},
    }
    done = compressor("run", toy.write(tasks=tasks), "--output", toy.run)
    assert done.code == 2
    assert "'topic' reads single texts and task 'pair' pairs" in done.error
