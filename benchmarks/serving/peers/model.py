"""The model as a person writes it in a small server: one ONNX file, one tokenizer, one thread.

All peers and the bare loop share it, so they differ in nothing but their serving. It reads the bundle's files
without our package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

BUNDLE_VARIABLE = "PEER_BUNDLE"
PRECISION_VARIABLE = "PEER_PRECISION"
WORKERS_VARIABLE = "PEER_WORKERS"


class PeerModel:
    """Texts in, logits out, for the first task of a bundle."""

    def __init__(self, bundle: Path, precision: str) -> None:
        """Load the artifact with this precision."""
        manifest = json.loads((bundle / "manifest.json").read_text())
        self.inputs = manifest["inputs"]
        self.labels: list[str] = manifest["tasks"][0]["labels"]
        self.output: str = manifest["tasks"][0]["output"]
        self.tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.inputs["max_length"], direction=self.inputs["truncation_side"])
        file = next(row["file"] for row in manifest["artifacts"] if row["precision"] == precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(bundle / file), options, providers=["CPUExecutionProvider"])

    @classmethod
    def from_environment(cls) -> PeerModel:
        """As the harness says."""
        return cls(Path(os.environ[BUNDLE_VARIABLE]), os.environ.get(PRECISION_VARIABLE, "int8"))

    def encode(self, text: str) -> Encoding:
        """Tokenise one text, cut to the model's length."""
        return self.tokenizer.encode(text)

    def run(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """Logits [texts, labels] of one batch, padded to its longest text."""
        arrays = self._single(encodings[0]) if len(encodings) == 1 else self._padded(encodings)
        logits: NDArray[np.float32] = self.session.run([self.output], {n: arrays[n] for n in self.inputs["names"]})[0]
        return logits

    def answer(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """What goes back for one text: the label, its score, and the logits [labels]."""
        powers = np.exp(logits - logits.max())
        best = int(powers.argmax())
        return {
            "label": self.labels[best],
            "score": float(powers[best] / powers.sum()),
            "logits": logits.tolist(),
        }

    def predict(self, text: str) -> dict[str, Any]:
        """All of it for one text."""
        return self.answer(self.run([self.encode(text)])[0])

    def _single(self, encoding: Encoding) -> dict[str, NDArray[np.int64]]:
        return {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
            "token_type_ids": np.array([encoding.type_ids], dtype=np.int64),
        }

    def _padded(self, encodings: Sequence[Encoding]) -> dict[str, NDArray[np.int64]]:
        shape = (len(encodings), max(len(encoding.ids) for encoding in encodings))
        arrays = {
            "input_ids": np.full(shape, self.inputs["pad_id"], dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "token_type_ids": np.full(shape, self.inputs["pad_token_type_id"], dtype=np.int64),
        }
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            arrays["input_ids"][row, :length] = encoding.ids
            arrays["attention_mask"][row, :length] = 1
            arrays["token_type_ids"][row, :length] = encoding.type_ids
        return arrays
