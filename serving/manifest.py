"""The bundle's manifest: every fact that a server needs to answer as the student did.

`manifest.json` is the JSON form of `Manifest`. Reading it is strict: an unknown format version or a
missing field is an error that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from serving.claims import Calibration, Certification, Interval, Invariance, Parity, Step, TargetRuntime
from serving.errors import BundleError
from serving.exclusion import Exclusion

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.json"
TaskType = Literal["classification", "multilabel", "regression"]


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one task asks and how its logits are read.

    Attributes:
        name: the task's name in the recipe.
        type: classification (softmax), multilabel (sigmoid per label) or regression (identity).
        labels: label names in the order of the logits; empty for regression.
        range: (low, high) of the training labels of a regression; logits are in units of this range,
            value = low + logit * (high - low). (0, 1) leaves values as they are.
        thresholds: probability from which each label of a multilabel task counts as present.
        temperature: logits are divided by it before the activation (calibration).
        metric: the metric that the task is judged by.
        output: name of the graph's output, [batch, labels] (regression: [batch, 1]).
    """

    name: str
    type: TaskType
    labels: tuple[str, ...] = ()
    range: tuple[float, float] = (0.0, 1.0)
    thresholds: tuple[float, ...] = ()
    temperature: float = 1.0
    metric: str = ""
    output: str = "logits"

    def __post_init__(self) -> None:
        """ValueError for figures that no answer could be computed with."""
        if self.thresholds and len(self.thresholds) != len(self.labels):
            raise ValueError(f"task '{self.name}' has {len(self.thresholds)} thresholds for {len(self.labels)} labels")
        if not self.temperature > 0:
            raise ValueError(f"task '{self.name}' has temperature {self.temperature}; it must be above 0")

    @property
    def num_outputs(self) -> int:
        """Width of the task's logits."""
        return max(len(self.labels), 1)


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How text becomes the graph's inputs.

    Attributes:
        names: the graph's inputs in order, each int64 [batch, tokens].
        pad_id: token id that fills short rows; the attention mask hides it.
        pad_token_type_id: token type of padding, where the graph takes token types.
        max_length: tokens per text (or pair), special tokens included; longer inputs are truncated.
        truncation_side: which end of a long text is cut: right or left.
        text_columns: the columns the texts came from; two for pairs, in the order they are encoded.
    """

    names: tuple[str, ...]
    pad_id: int
    pad_token_type_id: int = 0
    max_length: int
    truncation_side: Literal["right", "left"] = "right"
    text_columns: tuple[str, ...]


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One ONNX file of the bundle and what was measured of it.

    Attributes:
        precision: fp32, int8, int8_static, int8_weights or fp16.
        file: name inside the bundle.
        sha256: of the file, hexadecimal.
        bytes: size of the file.
        opset: ONNX opset of the default domain.
        ir_version: ONNX IR version.
        metrics: per task, on the validation split.
        parity: per task, against the torch student.
        calibration: per task with probabilities, on the validation split, which its temperature was fitted on too.
        ladder: per task, the steps of the parity ladder from the torch student down to this artifact.
        invariance: per task, a text alone against the same text in company.
        tolerance: largest allowed absolute logit difference when golden examples are replayed.
        batch_difference: largest logit difference of one text alone against the same text in a mixed batch.
        batch_invariant: whether that difference stays within 1e-5.
        certified: what the claims were measured on; None where nobody wrote it down.
        latency_seconds: median of one text alone on one thread there; None where it was not timed.
        passed: whether every gate of this artifact and of the rungs above it passed; who does not say so has not.
        quantised_nodes: number of operators that read int8 or fp16 weights (0 for fp32).
        exclusion: which layers stay fp32 in it, and why; None for fp32.
    """

    precision: str
    file: str
    sha256: str
    bytes: int
    opset: int
    ir_version: int
    metrics: dict[str, Interval] = {}
    parity: dict[str, Parity] = {}
    calibration: dict[str, Calibration] = {}
    ladder: dict[str, tuple[Step, ...]] = {}
    invariance: dict[str, Invariance] = {}
    tolerance: float = 1e-3
    batch_difference: float | None = None
    batch_invariant: bool | None = None
    certified: Certification | None = None
    latency_seconds: float | None = None
    passed: bool = False
    quantised_nodes: int = 0
    exclusion: Exclusion | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle's whole description.

    Attributes:
        format_version: of this file.
        name: of the model.
        version: of the model.
        tasks: what it answers.
        inputs: how texts become the graph's inputs.
        artifacts: the graphs and what was measured of them.
        default_artifact: precision of the one that is served; None where none passed its gates.
        student: per task, the torch student's metric on the same validation texts.
        gates: every gate of every artifact, see `export.gates.Gate`.
        target: the ONNX Runtime that the bundle was made for, if one was named.
        provenance: intended use, recipe, stages, versions, hashes of data and models, date; free-form.
        files: the sha256 of every other file that a server or another tool reads.
    """

    format_version: int = FORMAT_VERSION
    name: str
    version: str
    tasks: tuple[TaskSpec, ...]
    inputs: InputSpec
    artifacts: tuple[Artifact, ...]
    default_artifact: str | None
    student: dict[str, Interval] = {}
    gates: tuple[dict[str, Any], ...] = ()
    target: TargetRuntime | None = None
    provenance: dict[str, Any] = {}
    files: dict[str, str] = {}

    def __post_init__(self) -> None:
        """ValueError where an artifact would be served by default that did not pass its gates."""
        if any(artifact.precision == self.default_artifact and not artifact.passed for artifact in self.artifacts):
            raise ValueError(f"the default artifact '{self.default_artifact}' did not pass its gates")

    def artifact(self, precision: str | None = None) -> Artifact:
        """The artifact of a precision (None: the default one); BundleError names the choices."""
        wanted = precision or self.default_artifact
        if wanted is None:
            raise BundleError(
                f"no artifact of the bundle '{self.name}' passed its gates. Mend what its README.md lists and export "
                f"again, or name one with --precision: {', '.join(a.precision for a in self.artifacts)}"
            )
        for artifact in self.artifacts:
            if artifact.precision == wanted:
                return artifact
        choices = ", ".join(a.precision for a in self.artifacts)
        raise BundleError(f"the bundle has no artifact of precision '{wanted}'. Choose one of: {choices}")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of a bundle folder."""
    path = folder / MANIFEST_FILE
    try:
        if not path.is_file():
            raise BundleError(
                f"'{folder}' is not a bundle: it has no {MANIFEST_FILE}. Give the 'bundle' folder of a run."
            )
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}). Let this user read the bundle.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}. Export the bundle again.") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {manifest.format_version}, this program reads {FORMAT_VERSION}. "
            "Export the bundle again with this version, or serve it with the version that made it."
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, indented, in a stable order."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST_FILE).write_bytes(encoded + b"\n")
