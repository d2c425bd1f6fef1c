"""A report as a run writes it, with realistic figures."""

from __future__ import annotations

import math
from typing import Any

import pytest

INTENTS = (
    "access", "billing", "cancel", "change", "complaint", "fault",
    "feedback", "fraud", "information", "purchase", "refund", "status",
)  # fmt: skip
TOPICS = ("card", "app", "post")
SETTINGS = {"device": "cpu", "dtype": "bf16", "threads": 2, "kept": "last"}


@pytest.fixture
def report() -> dict[str, Any]:
    """One classification task with twelve intents, everything measured."""
    return {
        "format_version": 1,
        "name": "supportdesk",
        "created": "2026-03-02T14:07:31+0100",
        "recipe": {
            "name": "supportdesk",
            "tasks": {"intent": {"data": "supportdesk", "text": "text", "label": "intent"}},
            "max_length": 128,
            "teacher": {"model": "sentence-transformers/all-MiniLM-L6-v2", "train": True, "epochs": 4},
            "student": {"layers": 3, "init": "pretrained"},
            "method": {"kd": {"temperature": 2.0}},
            "training": {"epochs": 8, "learning_rate": 2e-4, "batch_size": 16},
            "seed": 0,
        },
        "tasks": {
            "intent": {
                "type": "classification",
                "metric": "accuracy",
                "labels": list(INTENTS),
                "rows": {"train": 1726, "validation": 384, "test": 768},
                "dropped": {"train": 2},
                "notices": ["2 train texts occur in test and were dropped"],
                "text_columns": ["text"],
            }
        },
        "teacher": {
            "kind": "trained",
            "model": "sentence-transformers/all-MiniLM-L6-v2",
            "count": 1,
            "layers": 6,
            "parameters": 22_717_836,
            "encoder_parameters": 10_792_704,
            "bytes": 90_882_104,
            "tasks": {"intent": judged(0.746, 0.715, 0.776, spread=0.05)},
            "training": {"intent": training(epochs=4, best=0.74, seconds=151.2)},
        },
        "student": {**student(0.682, 0.648, 0.714, spread=0.09), "method": {"kd": {"temperature": 2.0}}},
        "controls": {"none": student(0.667, 0.633, 0.699, spread=0.1)},
        "artifacts": [
            artifact("fp32", 69_633_280, 0.682, 0.648, 0.714),
            artifact("int8", 17_612_544, 0.677, 0.642, 0.71),
        ],
        "measurements": [
            measured("teacher", "torch", "fp32", 7.1),
            measured("student", "torch", "fp32", 3.9),
            measured("bundle", "onnxruntime", "fp32", 2.9),
            measured("bundle", "onnxruntime", "int8", 1.9),
            measured("teacher", "torch", "fp32", 61.4, batch_size=8),
            measured("bundle", "onnxruntime", "int8", 14.8, batch_size=8) | {"p99_ms": None, "samples": 40},
            measured("bundle", "onnxruntime", "int8", 1.2, threads=2),
        ],
        "ladder": [
            rung("tokens", "torch"),
            rung("plain", "torch", 2.1e-6),
            rung("fp32", "plain", 9.5e-7, to_torch=2.38e-6),
            rung("int8", "plain", 0.41, to_torch=0.41, changed=2),
        ],
        "gates": [
            gate("export_logit_difference", "fp32", limit=1e-4, measured=2.38e-6),
            gate("quantisation_metric_drop", "int8", limit=0.01, measured=-0.0026, low=-0.013, high=0.0078),
        ],
        "intervals_over": "examples",
        "environment": {
            "cpu_model": "AMD EPYC 9B14",
            "cpu_features": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"],
            "cpus": 4,
            "available_cpus": 2,
            "cpu_quota": 2.0,
            "memory_bytes": 8_345_600_000,
            "load_average": [0.41, 0.62, 0.55],
            "versions": {"python": "3.12.3", "torch": "2.13.0", "onnxruntime": "1.31.0", "cuda": None},
        },
        "stages": [
            {"name": "data", "key": "0f3a9c1d2b4e", "seconds": 0.0},
            {"name": "teacher-intent", "key": "77aa01be3c90", "seconds": 151.2},
            {"name": "student", "key": "5e21c0de88f1", "seconds": 88.6},
            {"name": "control-none", "key": "1b0c9d8e7f6a", "seconds": 86.0},
            {"name": "export", "key": "9a8b7c6d5e4f", "seconds": 14.3},
        ],
        "examples": [
            {"text": [text], "answers": {"intent": answer(label, 0.81)}}
            for text, label in (
                ("My card was charged twice for the same train ticket.", "billing"),
                ("cant log in since the update, code never comes", "access"),
                ("Where is parcel 30-118? It was due on Monday.", "status"),
            )
        ],
    }


@pytest.fixture
def several_tasks(report: dict[str, Any]) -> dict[str, Any]:
    """The same run with a regression and a multilabel task beside the intents, and a gate that failed."""
    report["tasks"] |= {
        "urgency": regression_data(),
        "topics": regression_data() | {"type": "multilabel", "metric": "micro_f1", "labels": list(TOPICS)},
    }
    for model, shift in (
        (report["teacher"], 0.05),
        (report["student"], 0.0),
        (report["controls"]["none"], -0.02),
    ):
        model["tasks"]["urgency"] = score("pearson", 0.71 + shift, 0.67 + shift, 0.75 + shift)
        model["tasks"]["topics"] = {
            **score("micro_f1", 0.83 + shift, 0.8 + shift, 0.86 + shift),
            "per_class": [
                {
                    "label": label,
                    "precision": 0.8,
                    "recall": 0.8 + shift,
                    "f1": 0.8 + shift,
                    "support": 120 + place,
                }
                for place, label in enumerate(TOPICS)
            ],
            "confusion": None,
        }
        for task, metric in (("urgency", "pearson"), ("topics", "micro_f1")):
            model["training"][task] = training(epochs=8, best=0.76 + shift, seconds=60.0, task=task, metric=metric)
    for model in (report["student"], report["controls"]["none"]):
        model["training"] = {"": joint(model["training"])}
    report["teacher"] |= {"count": 3, "parameters": 68_153_508, "bytes": 272_646_312}
    for item in report["artifacts"]:
        item["tasks"] |= {
            "urgency": score("pearson", 0.7, 0.66, 0.74),
            "topics": score("micro_f1", 0.82, 0.79, 0.85),
        }
        item["parity"] |= {"urgency": item["parity"]["intent"], "topics": item["parity"]["intent"]}
    drop = {"limit": 0.01, "low": 0.012, "high": 0.031, "measured": 0.021}
    report["gates"] += [
        gate("quantisation_metric_drop", "int8", task="urgency", verdict="failed", **drop),
        gate("quantisation_metric_drop", "int8", task="topics", verdict="inconclusive", **drop | {"low": 0.004}),
    ]
    for example in report["examples"]:
        example["answers"] |= {"urgency": {"value": 0.41}, "topics": {"labels": [], "scores": {"card": 0.3}}}
    return report


def student(value: float, low: float, high: float, *, spread: float) -> dict[str, Any]:
    """A three-layer student or control."""
    return {
        "kind": "trained",
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "layers": 3,
        "parameters": 17_394_828,
        "encoder_parameters": 5_469_696,
        "bytes": 69_587_000,
        "tasks": {"intent": judged(value, low, high, spread=spread)},
        "training": {"": training(epochs=8, best=value, seconds=87.0)},
    }


def score(metric: str, value: float, low: float, high: float) -> dict[str, Any]:
    """A figure with its interval, and the same once more among all metrics."""
    plain = {"metric": metric, "value": value, "low": low, "high": high}
    return {**plain, "metrics": {metric: plain}, "per_class": []}


def judged(value: float, low: float, high: float, *, spread: float) -> dict[str, Any]:
    """Accuracy with figures per intent and a confusion matrix."""
    f1 = [value + spread * math.sin(2.1 * place + value) for place in range(len(INTENTS))]
    matrix = [[1 if row != column else 44 for column in range(12)] for row in range(12)]
    matrix[4][6] = 14
    matrix[10][2] = 9
    return {
        **score("accuracy", value, low, high),
        "metrics": {
            "accuracy": {"metric": "accuracy", "value": value, "low": low, "high": high},
            "macro_f1": {
                "metric": "macro_f1",
                "value": value - 0.004,
                "low": low - 0.005,
                "high": high - 0.003,
            },
            "mcc": {"metric": "mcc", "value": value - 0.022, "low": low - 0.02, "high": high - 0.024},
        },
        "per_class": [
            {"label": label, "precision": f + 0.02, "recall": f - 0.02, "f1": f, "support": 64}
            for label, f in zip(INTENTS, f1, strict=True)
        ],
        "confusion": matrix,
    }


def training(
    *, epochs: int, best: float, seconds: float, task: str = "intent", metric: str = "accuracy"
) -> dict[str, Any]:
    """A training whose loss falls and whose metric rises; logged as the trainer logs."""
    steps = 100 * epochs
    losses = [
        {"step": s, "epoch": s / 100, "loss": (1.1 - best) * (1 + 5 * math.exp(-s / (20 * epochs)))}
        for s in range(10, steps + 1, 10)
    ]
    values = {e: best * (1 - 0.55 * math.exp(-e)) for e in range(1, epochs + 1)}
    scores = [
        {"step": 100 * e, "epoch": float(e), "eval_score": value, f"eval_{task}_{metric}": value}
        for e, value in values.items()
    ]
    return {"curve": losses + scores, "seconds": seconds, "steps": steps, "planned_steps": steps, **SETTINGS}


def joint(trainings: dict[str, Any]) -> dict[str, Any]:
    """One training over several tasks: their evaluations in the same rows."""
    merged = [facts["curve"] for facts in trainings.values()]
    first = next(iter(trainings.values()))
    return {
        **first,
        "curve": [dict(pair for row in rows for pair in row.items()) for rows in zip(*merged, strict=False)],
    }


def artifact(precision: str, size: int, value: float, low: float, high: float) -> dict[str, Any]:
    """A file of the bundle; int8 is served by default."""
    is_int8 = precision == "int8"
    return {
        "precision": precision,
        "file": f"model.{precision}.onnx",
        "bytes": size,
        "tasks": {"intent": {"metric": "accuracy", "value": value, "low": low, "high": high}},
        "parity": {
            "intent": {
                "max_difference": 0.41 if is_int8 else 2.38e-6,
                "mean_difference": 0.052 if is_int8 else 3.1e-7,
                "agreement": 0.974 if is_int8 else 1.0,
                "texts": 384,
            }
        },
        "quantised_nodes": 21 if is_int8 else 0,
        "invariance": {"intent": company(0.11, 2) if is_int8 else company(1.4e-6)},
        "batch_difference": 0.11 if is_int8 else 1.4e-6,
        "batch_invariant": not is_int8,
        "passed": True,
        "is_default": is_int8,
    }


def company(difference: float, changed: int = 0) -> dict[str, Any]:
    """What company changes in the answers to two dozen texts."""
    return {"max_difference": difference, "answers_changed": changed, "texts": 24, "placements": 160}


def rung(
    name: str,
    made_from: str,
    difference: float | None = None,
    *,
    to_torch: float | None = None,
    changed: int = 0,
) -> dict[str, Any]:
    """One rung of the parity ladder, passed; the tokens are compared with nothing."""
    found = {made_from: difference, "torch": to_torch or difference}
    drop = {"metric": "accuracy", "value": 0.002 * changed, "low": -0.003 * changed, "high": 0.007 * changed}
    return {
        "rung": name,
        "made_from": made_from,
        "problem": None,
        "passed": True,
        "comparisons": {
            other: {
                "intent": {
                    "max_difference": value,
                    "mean_difference": value / 8,
                    "agreement": 1.0 if value < 0.1 else 0.974,
                    "texts": 384,
                    "metric_drop": drop,
                }
            }
            for other, value in found.items()
            if value is not None
        },
    }


def measured(
    variant: str, runtime: str, precision: str, p50: float, *, threads: int = 1, batch_size: int = 1
) -> dict[str, Any]:
    """One row of the benchmark."""
    return {
        "variant": variant,
        "runtime": runtime,
        "device": "cpu",
        "precision": precision,
        "threads": threads,
        "batch_size": batch_size,
        "p50_ms": p50,
        "p95_ms": p50 * 1.34,
        "p99_ms": p50 * 1.61,
        "samples": 640,
        "texts_per_second": 1000 * batch_size / p50,
    }


def gate(name: str, artifact: str | None, *, limit: float, measured: float, **more: Any) -> dict[str, Any]:
    """A gate, passed unless it says otherwise."""
    ends = {"low": measured, "high": measured}
    return {
        "name": name, "task": "intent", "artifact": artifact, "limit": limit, "measured": measured,
        "verdict": "passed", **ends, **more,
    }  # fmt: skip


def answer(label: str, value: float) -> dict[str, Any]:
    """What the bundle says of one text."""
    return {"label": label, "score": value, "scores": {label: value}}


def regression_data() -> dict[str, Any]:
    """Facts about the data of a regression."""
    return {
        "type": "regression",
        "metric": "pearson",
        "labels": [],
        "rows": {"train": 1726, "validation": 384, "test": 768, "unlabelled": 5000},
        "dropped": {},
        "notices": ["2 train texts occur in test and were dropped"],
        "text_columns": ["text"],
    }
