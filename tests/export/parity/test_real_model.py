"""The real MiniLM: what is found in a toy is found among 22 million weights too."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from compressor.models.resolve import resolve_model
from export.graph import export_graph
from export.parity import compare
from export.parity.weights import lost_weights, used_weights
from export.runners import session_runner, torch_runner
from serving.manifest import InputSpec
from serving.session import create_session
from serving.tokenise import TextEncoder
from tests.export.conftest import INTENT, Heads
from tests.export.parity.mutations import shift_one_weight

NAMES = ("input_ids", "attention_mask", "token_type_ids")
WORDS = "models.intent.bert.embeddings.word_embeddings.weight"
TEXTS: list[tuple[str, ...]] = [("where is the parcel?",), ("I was charged twice, please send one of the two back.",)]


def test_one_changed_number_among_22_million_is_found(tmp_path: Path) -> None:
    """A row that the texts read shows in the logits, a row that no text reads only among the weights."""
    folder = resolve_model("sentence-transformers/all-MiniLM-L6-v2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Heads({"intent": AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)}).eval()
    inputs = InputSpec(names=NAMES, pad_id=0, max_length=128, text_columns=("text",))
    encoder = TextEncoder.load(Path(folder) / "tokenizer.json", inputs)
    export_graph(model, NAMES, [INTENT], tmp_path / "plain.onnx")
    used = used_weights(model, encoder.batch(encoder.encode(TEXTS)))["intent"]
    parcel = encoder.encode(TEXTS[:1])[0].input_ids[4]  # of [CLS] where is the parcel

    def differences(row: int) -> tuple[float, list[str]]:
        graph = onnx.load(tmp_path / "plain.onnx")
        shift_one_weight(f"model.{WORDS}", 0.05, place=row * 384)(graph)
        onnx.save_model(graph, str(tmp_path / "mutant.onnx"))
        run = session_runner(create_session(tmp_path / "mutant.onnx"), [INTENT])
        found = compare(torch_runner(model), run, encoder, TEXTS, [INTENT])["intent"]
        return found.max_difference, lost_weights(used, tmp_path / "mutant.onnx")

    read, unread = differences(parcel), differences(row=29_999)

    assert lost_weights(used, tmp_path / "plain.onnx") == []
    assert read[0] > 1e-4
    assert unread[0] < 1e-4
    assert read[1] == unread[1] == [WORDS]
    assert sum(array.size for array in used.values()) == pytest.approx(22.7e6, rel=0.01)
