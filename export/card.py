"""The model card of a bundle: what it does, what was measured, how to check it."""

from __future__ import annotations

from export.gates import Gate
from export.measure import Measurements
from serving.manifest import Artifact, Manifest, TaskSpec

CARD_FILE = "README.md"


def model_card(manifest: Manifest, measurements: Measurements) -> str:
    """Markdown with a table per claim; every figure stands in `manifest.json` or comes from the same run."""
    sections = (
        f"# {manifest.name} {manifest.version}",
        _usage(manifest),
        "## Tasks\n\n" + "\n".join(_task(task) for task in manifest.tasks),
        "## Measured\n\n" + _table(manifest, measurements),
        "## Gates\n\n" + ("\n".join(_gate(gate) for gate in measurements.gates) or "None was set."),
        _checks(manifest, measurements),
    )
    return "\n\n".join(sections) + "\n"


def _usage(manifest: Manifest) -> str:
    columns = " and ".join(f"`{column}`" for column in manifest.inputs.text_columns)
    return (
        f"Reads {columns}, at most {manifest.inputs.max_length} tokens; longer input is cut at its "
        f"{manifest.inputs.truncation_side} end. Serve it with `compressor serve FOLDER`."
    )


def _task(task: TaskSpec) -> str:
    if task.type == "regression":
        return f"- `{task.name}`: regression, trained on values from {task.range[0]:g} to {task.range[1]:g}"
    return f"- `{task.name}`: {task.type}, {len(task.labels)} labels: {', '.join(task.labels)}"


def _table(manifest: Manifest, measurements: Measurements) -> str:
    lines = [
        "Metrics are of the validation split, with 95% intervals; logits are held against the torch model.",
        "",
        "| artifact | bytes | task | metric | largest logit difference | same answers |",
        "|---|---|---|---|---|---|",
    ]
    for name, interval in measurements.student.items():
        lines.append(
            f"| torch | | {name} | {interval.metric} {interval.value:.4f} "
            f"({interval.low:.4f} to {interval.high:.4f}) | | |"
        )
    for artifact in manifest.artifacts:
        lines += [_row(artifact, task) for task in manifest.tasks]
    return "\n".join(lines)


def _row(artifact: Artifact, task: TaskSpec) -> str:
    interval, parity = artifact.metrics[task.name], artifact.parity[task.name]
    return (
        f"| {artifact.precision} | {artifact.bytes:,} | {task.name} "
        f"| {interval.metric} {interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f}) "
        f"| {parity.max_difference:.2g} | {parity.agreement:.1%} |"
    )


def _gate(gate: Gate) -> str:
    return (
        f"- {gate.subject}: {gate.name} {gate.measured:.2g} ({gate.low:.2g} to {gate.high:.2g}), "
        f"limit {gate.limit:g}: {gate.verdict}"
    )


def _checks(manifest: Manifest, measurements: Measurements) -> str:
    texts = {"synthetic": "made-up texts", "validation": "real texts of the validation split"}
    variant = [a.precision for a in manifest.artifacts if not a.batch_invariant]
    lines = [
        "## Check it",
        "",
        "- `compressor verify FOLDER` checks hashes, sizes, opsets, labels and golden examples; "
        "with `--data` the metrics too.",
        f"- The golden examples are {texts[measurements.golden.source]}.",
        f"- Measured on a CPU with {', '.join(measurements.cpu_features) or 'unknown instruction sets'}.",
    ]
    if variant:
        lines.append(
            f"- {', '.join(variant)}: the scale of the activations spans the batch, so other texts in it "
            "change the logits a little; answers are reproducible one text at a time."
        )
    return "\n".join(lines)
