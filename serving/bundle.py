"""A bundle that was checked and is ready to answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.answers import answer_rows
from serving.binding import BoundSession
from serving.certification import certify_here, doubts
from serving.errors import BundleError
from serving.golden import SHORT_SET, Golden, read_golden, replay
from serving.hashing import hash_file
from serving.manifest import GOLDEN_FILE, Artifact, Manifest, read_manifest
from serving.model import OnnxModel
from serving.session import create_session, providers_of
from serving.tokenise import TOKENIZER_FILE, Encoding, TextEncoder

logger = logging.getLogger(__name__)


class Bundle:
    """One artifact of a bundle folder, loaded; answers texts as the manifest says.

    Work comes in three steps, so that a server can put each where it belongs: `encode`, `run` and `answers`;
    `logits` and `predict` are the ways through.
    """

    def __init__(self, folder: Path, manifest: Manifest, artifact: Artifact, model: OnnxModel) -> None:
        """Join what `load` has read; checks nothing."""
        self.folder = folder
        self.manifest = manifest
        self.artifact = artifact
        self.model = model

    @classmethod
    def load(
        cls,
        folder: Path | str,
        precision: str | None = None,
        *,
        threads: int = 1,
        device: str = "cpu",
        check: bool = True,
    ) -> Bundle:
        """Read a bundle, and prove that it is the measured one before it answers anything.

        Args:
            folder: the bundle.
            precision: of the artifact to load; None for the manifest's default.
            threads: for one call of the model.
            device: cpu or cuda.
            check: verify every file's hash and replay golden examples.

        Raises:
            BundleError: a file is missing, changed or unreadable, or a golden example fails.
            UserError: no such device or provider here, or ONNX Runtime is missing.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        artifact = manifest.artifact(precision)
        if check:
            verify_files(folder, manifest)
        encoder = TextEncoder.load(folder / TOKENIZER_FILE, manifest.inputs)
        alone = device == "cpu" and not artifact.batch_invariant  # `safe_batch_size` is 1: as many shapes as lengths
        session = create_session(folder / artifact.file, threads, providers_of(device), plans_memory=alone)
        model = OnnxModel(session if device == "cpu" else BoundSession(session, device), encoder, manifest.tasks)
        if check:
            golden = read_golden(folder)
            replay(golden, model, artifact, _num_examples(artifact, golden, device))
        return cls(folder, manifest, artifact, model)

    def encode(self, texts: Sequence[str | tuple[str, ...]]) -> list[Encoding]:
        """Tokenise; a string counts as a text of one part. UserError for empty texts and wrong pairs."""
        return self.model.encoder.encode([(text,) if isinstance(text, str) else tuple(text) for text in texts])

    def run(
        self, encodings: Sequence[Encoding], tasks: Sequence[str] | None = None, batch_size: int | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Logits per task, [rows, outputs]; without a batch size the one that changes no answer."""
        return self.model.run(encodings, tasks, self.safe_batch_size if batch_size is None else batch_size)

    def answers(
        self, logits: dict[str, NDArray[np.float32]], top_k: int | None = None
    ) -> list[dict[str, dict[str, Any]]]:
        """One dict per row, from task name to answer (see `serving.answers.answer`)."""
        columns = []
        for name, column in logits.items():  # no comprehension: each is a call, and one text's answer is little more
            columns.append(answer_rows(column, self.model.task(name), top_k))
        rows = []
        for row in zip(*columns, strict=True):
            rows.append(dict(zip(logits, row, strict=True)))
        return rows

    def logits(
        self,
        texts: Sequence[str | tuple[str, ...]],
        tasks: Sequence[str] | None = None,
        batch_size: int = 1,
    ) -> dict[str, NDArray[np.float32]]:
        """Raw logits of texts: per task, [rows, outputs], in the order of the texts."""
        return self.run(self.encode(texts), tasks, batch_size)

    def predict(
        self,
        texts: Sequence[str | tuple[str, ...]],
        tasks: Sequence[str] | None = None,
        top_k: int | None = None,
        batch_size: int | None = None,
    ) -> list[dict[str, dict[str, Any]]]:
        """Answer texts; a truncated text is answered, and a warning is logged.

        Args:
            texts: strings, or pairs for a bundle that reads pairs.
            tasks: names of the tasks to answer; None for all.
            top_k: labels to show under `scores`; None for all.
            batch_size: texts per call of the model; None for `safe_batch_size`. Where that is 1, the memory of larger
                calls grows with the number of different shapes.

        Returns:
            One dict per text, from task name to answer.

        Raises:
            UserError: an empty text, a pair where a text is expected (or the reverse), an unknown task.
        """
        encodings = self.encode(texts)
        if num_truncated := sum(encoding.was_truncated for encoding in encodings):
            logger.warning(
                "%d of %d texts are longer than this model's max_length of %d tokens and were cut",
                num_truncated,
                len(encodings),
                self.manifest.inputs.max_length,
            )
        return self.answers(self.run(encodings, tasks, batch_size), top_k)

    @property
    def safe_batch_size(self) -> int:
        """Texts per call when nobody asks for a number: 1 unless a neighbour cannot change an answer."""
        return 16 if self.artifact.batch_invariant else 1


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Hold every file that the manifest names against its sha256; BundleError names the first to differ."""
    if unnamed := {TOKENIZER_FILE, GOLDEN_FILE} - manifest.files.keys():
        raise BundleError(f"the manifest has no hash of {', '.join(sorted(unnamed))}. Export the bundle again.")
    hashes = manifest.files | {artifact.file: artifact.sha256 for artifact in manifest.artifacts}
    for name, expected in hashes.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BundleError(f"the manifest names '{name}', which lies outside the bundle. Do not use this bundle.")
        try:
            given = hash_file(folder / path)
        except OSError as error:
            raise BundleError(
                f"the bundle's file '{name}' cannot be read ({error.strerror}). Copy or export the bundle again."
            ) from error
        if given != expected:
            raise BundleError(
                f"the bundle's file '{name}' was changed: its sha256 is {given[:12]}..., the manifest says "
                f"{expected[:12]}.... Copy or export the bundle again."
            )


def _num_examples(artifact: Artifact, golden: Golden, device: str) -> int | None:
    """How many golden examples to replay; warns where this machine is not like the one of the measurements."""
    found = doubts(artifact.certified, certify_here(device))
    if not found:
        return SHORT_SET
    logger.warning(
        "%s: %s; its latency figures may not hold here, and all %d golden examples are replayed",
        artifact.file,
        "; ".join(found),
        len(golden.texts),
    )
    return None
