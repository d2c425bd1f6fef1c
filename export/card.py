"""The model card of a bundle: what it is for, what was measured, how to check each claim, and what was not measured.

Every figure is one of `manifest.json`; `FIGURES` says which, and `compressor verify` holds the card against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from export.parity.figures import invariance_figures, ladder_figures
from serving.claims import Interval
from serving.golden import Source
from serving.manifest import Artifact, Manifest, TaskSpec

CARD_FILE = "README.md"
SOURCES, CERTIFIED = "Data and models", "Measured on"
MEASURED, LADDER, COMPANY, GATES = "Measured", "Parity ladder", "Neighbours and padding", "Gates"
_MEASURED = (
    "Metrics are of the validation split, with 95% intervals; logits are held against the torch model; the time is the "
    "median of one text alone on one thread."
)
_LADDER = (
    "Each graph against the one that it was made from, on real validation texts in many shapes: the step at which a "
    "difference enters."
)
_COMPANY = "The same text alone, among others, at any place among them and with more padding."
CONFIDENCE = "Confidence"
_CONFIDENCE = (
    "Of the validation texts, read with the temperature of the task, which was fitted on the same texts; the run's "
    "report has the test split. Chance alone lifts an ECE: beside it stands what a calibrated model would show."
)
_UNKNOWN = "not recorded"
_GOLDEN = {
    "synthetic": "made-up texts",
    "validation": "real texts of the validation split, filled up with made-up ones",
}


def model_card(manifest: Manifest, golden_source: Source) -> str:
    """Markdown; the figures of its tables are those of the manifest.

    Args:
        manifest: of the bundle.
        golden_source: where the texts of the golden examples come from.
    """
    sections = (
        f"# {manifest.name} {manifest.version}",
        "## Intended use\n\n" + _intended_use(manifest),
        "## Tasks\n\n" + "\n".join(_task(task) for task in manifest.tasks),
        f"## {SOURCES}\n\n" + (_table(source_figures(manifest)) or "Nobody has recorded where it comes from."),
        f"## {MEASURED}\n\n{_MEASURED}\n\n" + _table(measured_figures(manifest)),
        f"## {CERTIFIED}\n\n" + (_table(certified_figures(manifest)) or "What it was measured on was not recorded."),
        f"## {LADDER}\n\n{_LADDER}\n\n" + _table(ladder_figures(manifest)),
        f"## {COMPANY}\n\n{_COMPANY}\n\n" + _table(invariance_figures(manifest)),
        f"## {CONFIDENCE}\n\n" + _confidence(confidence_figures(manifest)),
        f"## {GATES}\n\n" + (_table(gate_figures(manifest)) if manifest.gates else "None was set."),
        "## Check it\n\n" + _checks(manifest, golden_source),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(manifest)),
        "## Not measured\n\n" + "\n".join(f"- {line}" for line in _not_measured(manifest)),
    )
    return "\n\n".join(sections) + "\n"


def measured_figures(manifest: Manifest) -> list[dict[str, str]]:
    """The rows of the card's first table, as they must stand there: one per artifact and task."""
    rows = [
        {"artifact": "torch", "task": task, "metric": _interval(interval)}
        for task, interval in manifest.student.items()
    ]
    for artifact in manifest.artifacts:
        rows += [_figures(artifact, task) for task in manifest.tasks]
    return rows


def source_figures(manifest: Manifest) -> list[dict[str, str]]:
    """Names and hashes of what it was trained on and made from, as they must stand on the card."""
    facts = manifest.provenance
    rows = [
        {
            "what": f"{task}: {split}" + (" (measured on)" if split == data["measured_on"] else ""),
            "from": str(content.get("name", data["name"])),
            "rows": f"{content['rows']:,}",
            "sha256": str(content["sha256"]),
        }
        for task, data in (facts.get("data") or {}).items()
        for split, content in data["splits"].items()
    ]
    rows += [{"what": name, "sha256": str(digest)} for name, digest in (facts.get("models") or {}).items()]
    for what, field in (("made by stages", "stages"), ("made with", "versions")):
        if found := facts.get(field):
            rows.append({"what": what, "from": ", ".join(f"{name} {value}" for name, value in found.items())})
    if created := facts.get("created"):
        rows.append({"what": "made on", "from": str(created)})
    return rows


def certified_figures(manifest: Manifest) -> list[dict[str, str]]:
    """The machines and runtimes that its claims were measured on, and the runtime that it was made for."""
    rows = [
        {
            "artifact": artifact.precision,
            "CPU": certified.cpu_model,
            "instruction sets": " ".join(certified.cpu_features) or _UNKNOWN,
            "int8 kernels": certified.int8_kernels,
            "8-bit products saturate": {True: "yes", False: "no", None: _UNKNOWN}[certified.saturates_int8],
            "runtime": f"{certified.runtime} on {certified.device}",
        }
        for artifact in manifest.artifacts
        if (certified := artifact.certified) is not None
    ]
    if (target := manifest.target) is not None:
        state = "golden examples replayed under it" if target.is_verified else "not verified"
        reads = f"reads opset {target.opset}, IR version {target.ir_version}"
        rows.append(
            {"artifact": "made for", "runtime": f"onnxruntime {target.runtime} ({reads}): {state}: {target.detail}"}
        )
    return rows


def confidence_figures(manifest: Manifest) -> list[dict[str, str]]:
    """The rows of the card's table of calibration, as they must stand there: one per artifact and task."""
    return [
        {
            "artifact": artifact.precision,
            "task": task.name,
            "temperature": f"{task.temperature:.4g}",
            "NLL": _plain(found.nll),
            "Brier": _plain(found.brier),
            "ECE": _plain(found.ece),
            "by chance": _plain(found.expected_ece),
            "texts": f"{found.rows:,}",
        }
        for artifact in manifest.artifacts
        for task in manifest.tasks
        if (found := artifact.calibration.get(task.name)) is not None
    ]


def gate_figures(manifest: Manifest) -> list[dict[str, str]]:
    """The rows of the card's table of gates, as they must stand there."""
    return [
        {
            "gate": str(gate["name"]),
            "of": str(gate["subject"]),
            "measured": _number(gate.get("measured")),
            "95% interval": f"{_number(gate.get('low'))} to {_number(gate.get('high'))}",
            "limit": _number(gate["limit"]),
            "verdict": str(gate["verdict"]),
        }
        for gate in manifest.gates
    ]


def _figures(artifact: Artifact, task: TaskSpec) -> dict[str, str]:
    parity, metric = artifact.parity.get(task.name), artifact.metrics.get(task.name)
    seconds = artifact.latency_seconds
    return {
        "artifact": artifact.precision,
        "bytes": f"{artifact.bytes:,}",
        "task": task.name,
        "metric": _interval(metric) if metric else _UNKNOWN,
        "largest logit difference": _number(parity.max_difference if parity else None),
        "same answers": f"{parity.agreement:.1%}" if parity else _UNKNOWN,
        "changed by its batch": _number(artifact.batch_difference),
        "one text, ms": _UNKNOWN if seconds is None else f"{1000 * seconds:.3g}",
    }


def _interval(interval: Interval) -> str:
    return f"{interval.metric} {_plain(interval)}"


def _plain(interval: Interval) -> str:
    return f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.3g}"


def _table(rows: list[dict[str, str]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(as_cell(text) for text in line)} |" for line in lines) if rows else ""


def as_cell(text: str) -> str:
    """A cell of Markdown: a bar or a line's end within it would make another cell."""
    return " ".join(text.replace("|", "/").split())


def _intended_use(manifest: Manifest) -> str:
    columns = " and ".join(f"`{column}`" for column in manifest.inputs.text_columns)
    said = manifest.provenance.get("intended_use")
    return (
        f"{said or 'Who made it has not said what it is for (`intended_use` in the recipe).'}\n\n"
        f"It reads {columns}, at most {manifest.inputs.max_length} tokens; longer input is cut at its "
        f"{manifest.inputs.truncation_side} end. Serve it with `compressor serve FOLDER`."
    )


def _task(task: TaskSpec) -> str:
    if task.type == "regression":
        return f"- `{task.name}`: regression, trained on values from {task.range[0]:g} to {task.range[1]:g}"
    return f"- `{task.name}`: {task.type}, {len(task.labels)} labels: {', '.join(task.labels)}"


def _confidence(rows: list[dict[str, str]]) -> str:
    return f"{_CONFIDENCE}\n\n{_table(rows)}" if rows else "No task has probabilities."


def _checks(manifest: Manifest, golden_source: Source) -> str:
    folder = "compressor verify FOLDER"
    rows = [
        ("hashes, sizes, opset, IR version, operators, labels", f"`{folder}`", "the bundle"),
        (f"golden examples ({_GOLDEN[golden_source]})", f"`{folder}`", "the bundle"),
        ("whether a text's batch changes its logits", f"`{folder}`", "the bundle"),
        ("this card says what the manifest says", f"`{folder}`", "the bundle"),
        ("metrics with their intervals", f"`{folder} --data FILE`", "the labelled validation texts"),
        ("parity with torch, gates, time, origin of data and models", f"`{folder} --run RUN`", "the run's folder"),
    ]
    return _table([dict(zip(("claim", "how to check it", "needs"), row, strict=True)) for row in rows])


def _limits(manifest: Manifest) -> Iterator[str]:
    yield "It answers whatever the text is about; nothing tells it that a text is foreign."
    yield "It was measured on texts like its training data; others may be answered worse, and it will not say so."
    variant = [artifact.precision for artifact in manifest.artifacts if not artifact.batch_invariant]
    if variant:
        yield (
            f"{', '.join(variant)}: the scale of the activations spans the batch, so other texts in it change the "
            "logits a little; answers are reproducible one text at a time."
        )
    yield "Times hold on the CPU named above only."


def _not_measured(manifest: Manifest) -> Iterator[str]:
    yield "Fairness between groups of people, attacks, personal data in the texts, other languages than the data's."
    yield "The test split: its figures stand in the run's report, not here."
    if all(artifact.certified is None or artifact.certified.device == "cpu" for artifact in manifest.artifacts):
        yield "GPUs: everything here was measured on a CPU."
    if untimed := [a.precision for a in manifest.artifacts if a.latency_seconds is None]:
        yield f"The time of {', '.join(untimed)}."
    if manifest.target is not None and not manifest.target.is_verified:
        yield f"onnxruntime {manifest.target.runtime}, which it was made for."


FIGURES: Mapping[str, Callable[[Manifest], list[dict[str, str]]]] = {
    SOURCES: source_figures,
    CERTIFIED: certified_figures,
    MEASURED: measured_figures,
    LADDER: ladder_figures,
    COMPANY: invariance_figures,
    CONFIDENCE: confidence_figures,
    GATES: gate_figures,
}
"""The tables of the card that `compressor verify` holds against the manifest, by their headings."""
