"""Graphs of six architectures say what torch says, in shapes they were not traced with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.transformers import optimizer
from torch import nn

from export import graph
from export.candidate import name_outputs
from export.graph import export_graph
from export.optimise import FUSED_TYPES, fuse_attention
from export.parity import compare
from export.quantise.quantiser import Quantiser
from export.runners import session_runner, torch_runner
from serving.errors import UserError
from serving.session import create_session
from serving.tokenise import TextEncoder
from tests.export.conftest import (
    CONFIGS,
    INPUTS,
    INTENT,
    URGENCY,
    Heads,
    double_weight,
    make_config,
    make_model,
    make_texts,
)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_keeps_its_logits_in_every_shape(
    architecture: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    """An export that froze an axis, a mask or relative positions would answer wrongly without any error."""
    model = make_model(architecture)
    plain, fused = tmp_path / "plain.onnx", tmp_path / "fused.onnx"

    export_graph(model, INPUTS.names, [INTENT], plain)
    fusion = fuse_attention(plain, fused, make_config(architecture))

    for path in (plain, fused):
        run = session_runner(create_session(path), [INTENT])
        parity = compare(torch_runner(model), run, encoder, make_texts(), [INTENT])[INTENT.name]
        assert parity.max_difference < 1e-4
        assert parity.agreement == 1.0
        assert (1, INPUTS.max_length) in parity.shapes
    assert fusion.attention == (2 if architecture in FUSED_TYPES else 0)
    assert (fusion.note is None) == (fusion.attention > 0)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_quantises_all_its_weights(architecture: str, encoder: TextEncoder, tmp_path: Path) -> None:
    """int8 that skipped embeddings or layers would be sold as small and fast."""
    export_graph(make_model(architecture), INPUTS.names, [INTENT], tmp_path / "plain.onnx")

    summary = Quantiser(tmp_path / "plain.onnx", encoder, [INTENT]).write("int8", tmp_path / "int8.onnx")

    assert summary.left_fp32 == ()
    assert summary.operators["Gather"] >= 1
    assert summary.operators["MatMul"] >= 2 * 6 + 1


def test_both_axes_of_all_inputs_are_free(tmp_path: Path) -> None:
    """A graph with a fixed size loads in other tools and fails only on the first real text."""
    export_graph(make_model("bert"), INPUTS.names, [INTENT], tmp_path / "plain.onnx")

    model = onnx.load(tmp_path / "plain.onnx")
    axes = {value.name: [axis.dim_param for axis in value.type.tensor_type.shape.dim] for value in model.graph.input}
    assert axes == {"input_ids": ["batch", "tokens"], "attention_mask": ["batch", "tokens"]}
    assert [value.name for value in model.graph.output] == ["logits"]


def test_token_types_reach_the_model(encoder: TextEncoder, tmp_path: Path) -> None:
    """Swapped or dropped token types would leave pairs unreadable while single texts still pass."""
    model = make_model("bert")
    names = ("input_ids", "token_type_ids", "attention_mask")
    export_graph(model, names, [INTENT], tmp_path / "plain.onnx")
    ids = np.full((2, 6), 7)
    types = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]])
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": np.ones_like(ids)}

    given = session_runner(create_session(tmp_path / "plain.onnx"), [INTENT])(inputs)["intent"]

    np.testing.assert_allclose(given, torch_runner(model)(inputs)["intent"], atol=1e-4)
    assert np.abs(given[0] - given[1]).max() > 1e-2


def test_several_tasks_share_one_graph_with_an_output_each(encoder: TextEncoder, tmp_path: Path) -> None:
    """Outputs in another order than the tasks would swap the answers of two heads."""
    tasks = name_outputs([INTENT, URGENCY])
    model = make_model("distilbert", (URGENCY, INTENT))
    export_graph(model, INPUTS.names, tasks, tmp_path / "plain.onnx")
    session = create_session(tmp_path / "plain.onnx")

    assert [node.name for node in session.get_outputs()] == ["logits_intent", "logits_urgency"]
    parity = compare(torch_runner(model), session_runner(session, tasks), encoder, make_texts(), tasks)
    assert max(found.max_difference for found in parity.values()) < 1e-4


def test_exporting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """A model left in training mode answers with dropout from then on; parity would blame the graph."""
    model = make_model("bert")
    model.models["intent"].train()
    implementation = _attention_of(model)

    export_graph(model, INPUTS.names, [INTENT], tmp_path / "plain.onnx")

    assert not model.training
    assert all(part.training for part in model.models["intent"].modules())
    assert _attention_of(model) == implementation == "sdpa"


def test_a_model_that_skips_masking_of_full_batches_keeps_its_mask(tmp_path: Path) -> None:
    """Traced with a mask of ones only, the branch without masking would be all that the graph knows."""

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 3)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            rows = self.table(input_ids)
            if not bool(attention_mask.all()):
                rows = rows * attention_mask.unsqueeze(-1)
            return {"intent": rows.sum(dim=1)}

    model = Shortcut()
    export_graph(model, INPUTS.names, [INTENT], tmp_path / "plain.onnx")
    inputs = {"input_ids": np.full((1, 4), 5), "attention_mask": np.array([[1, 1, 0, 0]])}

    given = session_runner(create_session(tmp_path / "plain.onnx"), [INTENT])(inputs)["intent"]

    np.testing.assert_allclose(given, torch_runner(model)(inputs)["intent"], atol=1e-5)


def test_a_model_too_large_for_one_file_is_refused_before_tracing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 2 GiB torch writes a second file that nobody hashes or copies."""
    monkeypatch.setattr(graph, "MAX_GRAPH_BYTES", 1000)

    with pytest.raises(UserError, match="less than 2 GiB"):
        export_graph(make_model("bert"), INPUTS.names, [INTENT], tmp_path / "plain.onnx")
    assert not (tmp_path / "plain.onnx").exists()


def test_an_operator_that_onnx_lacks_is_told_in_one_line(tmp_path: Path) -> None:
    """A torch traceback of a hundred lines tells a user nothing."""

    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"intent": torch.special.zeta(input_ids.float() + 2, self.scale + 1)}

    with pytest.raises(UserError, match="cannot turn this model into an ONNX graph") as caught:
        export_graph(Unknown(), INPUTS.names, [INTENT], tmp_path / "plain.onnx")
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_keeps_the_plain_graph_and_says_so(tmp_path: Path) -> None:
    """Optimisation that quietly did nothing would be reported as done."""
    plain = tmp_path / "plain.onnx"
    export_graph(make_model("mpnet"), INPUTS.names, [INTENT], plain)

    fusion = fuse_attention(plain, tmp_path / "fused.onnx", make_config("mpnet"))

    assert fusion.note is not None
    assert "mpnet" in fusion.note
    assert (tmp_path / "fused.onnx").read_bytes() == plain.read_bytes()


def test_a_fusion_that_changes_the_logits_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused operator that reads a wrong weight gives a graph that runs and is wrong."""
    plain = tmp_path / "plain.onnx"
    export_graph(make_model("bert"), INPUTS.names, [INTENT], plain)
    fuse = optimizer.optimize_by_fusion

    def fuse_wrongly(*args: Any, **kwargs: Any) -> Any:
        fused = fuse(*args, **kwargs)
        bias = next(node for node in fused.model.graph.node if node.op_type == "Attention").input[2]
        double_weight(fused.model, bias)
        return fused

    monkeypatch.setattr(optimizer, "optimize_by_fusion", fuse_wrongly)

    fusion = fuse_attention(plain, tmp_path / "fused.onnx", make_config("bert"))

    assert fusion.note is not None
    assert "changed the logits" in fusion.note
    assert (tmp_path / "fused.onnx").read_bytes() == plain.read_bytes()


def _attention_of(model: Heads) -> str:
    config: Any = model.models["intent"].config
    return str(config._attn_implementation)
