"""The bundle's manifest: every fact that a server needs to answer as the student did.

`manifest.json` is the JSON form of `Manifest`. Reading it is strict: an unknown format version or a
missing field is an error that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from serving.errors import BundleError

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


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A measured value with its 95% interval."""

    metric: str
    value: float
    low: float
    high: float


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """How an artifact's logits differ from the torch student's on real texts.

    Attributes:
        max_difference: largest absolute logit difference.
        mean_difference: mean absolute logit difference.
        agreement: share of texts with the same answer, in [0, 1].
        texts: number of texts compared.
        shapes: the (batch, tokens) shapes that were run.
    """

    max_difference: float
    mean_difference: float
    agreement: float
    texts: int
    shapes: tuple[tuple[int, int], ...]


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One ONNX file of the bundle and what was measured of it.

    Attributes:
        precision: fp32, int8 or fp16.
        file: name inside the bundle.
        sha256: of the file, hexadecimal.
        bytes: size of the file.
        opset: ONNX opset of the default domain.
        ir_version: ONNX IR version.
        metrics: per task, on the validation split.
        parity: per task, against the torch student.
        tolerance: largest allowed absolute logit difference when golden examples are replayed.
        batch_difference: largest logit difference of one text alone against the same text in a mixed batch.
        batch_invariant: whether that difference stays within 1e-5.
        cpu_features: instruction sets of the CPU that the claims were measured on.
        passed: whether every gate of this artifact passed.
        quantised_nodes: number of int8 operators (0 for fp32).
    """

    precision: str
    file: str
    sha256: str
    bytes: int
    opset: int
    ir_version: int
    metrics: dict[str, Interval] = {}
    parity: dict[str, Parity] = {}
    tolerance: float = 1e-3
    batch_difference: float | None = None
    batch_invariant: bool | None = None
    cpu_features: tuple[str, ...] = ()
    passed: bool = True
    quantised_nodes: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle's whole description; `provenance` is free-form (recipe, versions, data hashes, date)."""

    format_version: int = FORMAT_VERSION
    name: str
    version: str
    tasks: tuple[TaskSpec, ...]
    inputs: InputSpec
    artifacts: tuple[Artifact, ...]
    default_artifact: str
    provenance: dict[str, Any] = {}
    files: dict[str, str] = {}

    def artifact(self, precision: str | None = None) -> Artifact:
        """The artifact of a precision (None: the default one); BundleError names the choices."""
        wanted = precision or self.default_artifact
        for artifact in self.artifacts:
            if artifact.precision == wanted:
                return artifact
        choices = ", ".join(a.precision for a in self.artifacts)
        raise BundleError(f"the bundle has no artifact of precision '{wanted}'. Choose one of: {choices}")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of a bundle folder."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"'{folder}' is not a bundle: it has no {MANIFEST_FILE}. Give the 'bundle' folder of a run.")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
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
