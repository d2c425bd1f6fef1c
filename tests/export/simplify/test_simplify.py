"""Simplified graphs say what torch says; what they no longer compute, nobody read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from transformers import AlbertConfig, AutoModelForSequenceClassification, BertConfig, ModernBertConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function, eager_mask

from export import graph
from export.candidate import Student, export_candidate, name_outputs
from export.graph import export_graph
from export.optimise import FUSED_TYPES, fuse_attention
from export.parity import compare
from export.quantise.layers import find_layers, load_plain
from export.runners import session_runner, torch_runner
from export.simplify import simplify, steps
from export.simplify.observed import SIZES, observe
from serving.manifest import TaskSpec
from serving.session import create_session
from serving.tokenise import TextEncoder
from tests.export.conftest import (
    CONFIGS,
    INPUTS,
    INTENT,
    MAX_LENGTH,
    URGENCY,
    WORDS,
    Heads,
    double_weight,
    make_config,
    make_model,
    make_texts,
)

_TINY: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
PAIR_OF_TASKS = name_outputs([INTENT, URGENCY])


class _Pooled(nn.Module):
    """A toy encoder under a head that reads the mean of all tokens, and under one that reads the first where wanted."""

    def __init__(self, *, reads_first_too: bool) -> None:
        super().__init__()
        self.encoder = make_model("bert").models["intent"].get_submodule("bert")
        self.mean_head = nn.Linear(32, 3)
        self.first_head = nn.Linear(32, 1) if reads_first_too else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        share = attention_mask.float() / attention_mask.float().sum(1, keepdim=True)
        logits = {"intent": self.mean_head((hidden * share[:, :, None]).sum(1))}
        if self.first_head is not None:
            logits["urgency"] = self.first_head(hidden[:, 0])
        return logits


def _exported(model: nn.Module, path: Path, tasks: tuple[TaskSpec, ...] = (INTENT,)) -> Path:
    assert export_graph(model, INPUTS.names, tasks, path) is None
    return path


def _check_says_the_same(
    path: Path, model: nn.Module, encoder: TextEncoder, tasks: tuple[TaskSpec, ...] = (INTENT,)
) -> None:
    run = session_runner(create_session(path), tasks)
    for parity in compare(torch_runner(model), run, encoder, make_texts(), tasks).values():
        assert parity.max_difference < 1e-4
        assert parity.agreement == 1.0


def _sizes_of(path: Path, role: str) -> dict[int | None, list[int]]:
    """From the number of the block to how many tokens a product of a role computes, in runs of several sizes."""
    model = load_plain(path)
    outputs = {node.name: node.output[0] for node in model.graph.node}
    shapes = observe(model, path.parent).shapes
    layers = [layer for layer in find_layers(model) if layer.role == role]
    return {layer.block: [shape[1] for shape in shapes[outputs[layer.nodes[0]]]] for layer in layers}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_says_the_same_in_fewer_nodes(
    architecture: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    """A row, an axis or a mask that went missing would answer wrongly, and faster."""
    model = make_model(architecture)
    path = _exported(model, tmp_path / "plain.onnx")
    num_before = len(onnx.load(path).graph.node)

    assert simplify(path, MAX_LENGTH) is None

    _check_says_the_same(path, model, encoder)
    assert len(onnx.load(path).graph.node) < 0.9 * num_before
    onnx.checker.check_model(onnx.load(path), full_check=True)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("role", ["attention query", "attention output", "feed-forward in", "feed-forward out"])
def test_the_last_layer_computes_the_one_token_that_the_head_reads(
    architecture: str, role: str, tmp_path: Path
) -> None:
    """Five sixths of the last layer's products would be computed for nobody."""
    path = _exported(make_model(architecture), tmp_path / "plain.onnx")
    assert simplify(path, MAX_LENGTH) is None

    sizes = _sizes_of(path, role)

    tokens = [tokens for _, tokens in SIZES]
    assert sizes[0] == tokens
    assert sizes[1] == ([1] * len(SIZES) if _cuts(architecture, role) else tokens)


def _cuts(architecture: str, role: str) -> bool:
    """DeBERTa looks its relative positions up by query: there the cut comes behind attention."""
    return architecture != "deberta-v2" or role != "attention query"


@pytest.mark.parametrize("role", ["attention key", "attention value"])
def test_keys_and_values_are_those_of_all_tokens(role: str, tmp_path: Path) -> None:
    """The one token that is read looks at all others."""
    path = _exported(make_model("bert"), tmp_path / "plain.onnx")
    assert simplify(path, MAX_LENGTH) is None

    assert _sizes_of(path, role)[1] == [tokens for _, tokens in SIZES]


def test_several_tasks_that_read_the_first_token_share_the_cut(encoder: TextEncoder, tmp_path: Path) -> None:
    """Heads of one encoder read the same hidden states more than once."""

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = make_model("bert").models["intent"].get_submodule("bert")
            self.heads = nn.ModuleDict({"intent": nn.Linear(32, 3), "urgency": nn.Linear(32, 1)})

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return {name: head(hidden[:, 0]) for name, head in self.heads.items()}

    model = TwoHeads().eval()
    path = _exported(model, tmp_path / "plain.onnx", PAIR_OF_TASKS)

    assert simplify(path, MAX_LENGTH) is None

    _check_says_the_same(path, model, encoder, PAIR_OF_TASKS)
    assert _sizes_of(path, "feed-forward in")[1] == [1] * len(SIZES)


@pytest.mark.parametrize("reads_first_too", [False, True])
def test_a_head_that_reads_every_token_keeps_them(reads_first_too: bool, encoder: TextEncoder, tmp_path: Path) -> None:
    """Its neighbour reads the first one only, and must not take the others away."""
    model = _Pooled(reads_first_too=reads_first_too).eval()
    tasks = PAIR_OF_TASKS if reads_first_too else (INTENT,)
    path = _exported(model, tmp_path / "plain.onnx", tasks)

    assert simplify(path, MAX_LENGTH) is None

    _check_says_the_same(path, model, encoder, tasks)
    assert _sizes_of(path, "feed-forward out")[1] == [tokens for _, tokens in SIZES]


def test_a_mask_with_a_row_per_query_is_cut_too(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some encoders make their own masks; the first query's row is the one to add."""
    monkeypatch.setattr(graph, "_padding_mask", eager_mask)
    model = make_model("bert")
    path = _exported(model, tmp_path / "plain.onnx")

    assert simplify(path, MAX_LENGTH) is None

    _check_says_the_same(path, model, encoder)
    assert _sizes_of(path, "attention query")[1] == [1] * len(SIZES)


@pytest.mark.parametrize("architecture", [name for name in FUSED_TYPES if name in CONFIGS])
def test_attention_of_all_layers_but_the_last_is_fused_after_it(
    architecture: str, encoder: TextEncoder, tmp_path: Path
) -> None:
    """The operator has as many queries as keys; the layers before the last still gain by it."""
    model = make_model(architecture)
    plain, fused = _exported(model, tmp_path / "plain.onnx"), tmp_path / "fused.onnx"
    assert simplify(plain, MAX_LENGTH) is None

    fusion = fuse_attention(plain, fused, make_config(architecture))

    assert (fusion.attention, fusion.note) == (1, None)
    _check_says_the_same(fused, model, encoder)


def test_a_graph_that_would_say_something_else_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster and wrong is no bargain, whatever made it so."""
    path = _exported(make_model("bert"), tmp_path / "plain.onnx")
    before = path.read_bytes()

    def spoil(model: onnx.ModelProto, observed: Any) -> int:
        double_weight(model, next(tensor.name for tensor in model.graph.initializer if tensor.name.endswith("bias")))
        return 1

    monkeypatch.setattr(steps, "STEPS", (("with a wrong bias", spoil),))

    note = simplify(path, MAX_LENGTH)

    assert note is not None
    assert note.startswith("no graph with a wrong bias, which would change the logits by ")
    assert path.read_bytes() == before


def test_numbers_that_are_none_are_no_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every comparison with NaN is false, also the one that should have found it."""
    path = _exported(make_model("bert"), tmp_path / "plain.onnx")
    before = path.read_bytes()

    def spoil(model: onnx.ModelProto, observed: Any) -> int:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("bias"))
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, np.nan), tensor.name))
        return 1

    monkeypatch.setattr(steps, "STEPS", (("of nothing", spoil),))

    assert simplify(path, MAX_LENGTH) == "no graph of nothing, which would change the logits by inf"
    assert path.read_bytes() == before


def test_a_step_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that nobody has thought of was exported before, and is still."""
    path = _exported(make_model("bert"), tmp_path / "plain.onnx")

    def fail(model: onnx.ModelProto, observed: Any) -> int:
        raise IndexError("no such axis")

    monkeypatch.setattr(steps, "STEPS", (("of another kind", fail), *steps.STEPS))

    assert simplify(path, MAX_LENGTH) == "no graph of another kind (IndexError: no such axis)"
    assert _sizes_of(path, "feed-forward in")[1] == [1] * len(SIZES)


def test_what_was_left_out_is_a_note_of_the_candidate(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands print the candidate's notes; a slower graph should not come without a word."""

    def fail(model: onnx.ModelProto, observed: Any) -> int:
        raise IndexError("no such axis")

    monkeypatch.setattr(steps, "STEPS", (("of another kind", fail),))

    candidate = export_candidate(student, tmp_path, precisions=["int8"])

    assert candidate.notes == ["plain: no graph of another kind (IndexError: no such axis)"]


def test_a_student_of_one_layer_has_no_attention_to_fuse(tmp_path: Path) -> None:
    """Its only layer is the last one; the note must not say that the pattern was unknown."""
    config = BertConfig(**{**_TINY, "num_hidden_layers": 1})
    model = Heads({"intent": AutoModelForSequenceClassification.from_config(config)}).eval()
    plain = _exported(model, tmp_path / "plain.onnx")
    assert simplify(plain, MAX_LENGTH) is None

    fusion = fuse_attention(plain, tmp_path / "fused.onnx", config)

    assert fusion.note == "no attention could be fused in the graph of 'bert'; the plain graph is kept"


def test_a_size_that_grows_in_long_texts_only_is_found(tmp_path: Path) -> None:
    """One chunk of 20 tokens is enough for every size that is looked at; texts of 24 tokens have two."""

    class Chunks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(64, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            hidden = self.words(input_ids) * attention_mask[:, :, None]
            missing = -input_ids.shape[1] % 20
            filled = torch.cat([hidden, hidden.new_zeros(hidden.shape[0], missing, 8)], dim=1)
            chunks = filled.reshape(hidden.shape[0], filled.shape[1] // 20, 20, 8)
            return {"intent": self.head(chunks.sum(2).amax(1))}

    path = _exported(Chunks().eval(), tmp_path / "plain.onnx")
    before = path.read_bytes()

    note = simplify(path, MAX_LENGTH)

    assert note is not None
    assert note.startswith("no graph without computed shapes")
    assert path.read_bytes() == before


def test_a_graph_with_branches_is_left_alone(tmp_path: Path) -> None:
    """A branch reads tensors of the graph around it, and names them nowhere outside."""
    path = _exported(make_model("bert"), tmp_path / "plain.onnx")
    model = onnx.load(path)
    branch = helper.make_graph([], "branch", [], [onnx.ValueInfoProto(name="logits")])
    model.graph.node.append(
        helper.make_node("If", ["is_long"], ["chosen"], then_branch=branch, else_branch=branch, name="if")
    )
    onnx.save_model(model, str(path))
    before = path.read_bytes()

    assert simplify(path, MAX_LENGTH) == "the graph has branches; it is kept as torch traced it"
    assert path.read_bytes() == before


def test_texts_shorter_than_what_is_tried_are_enough(tmp_path: Path) -> None:
    """A model of few positions fails on the eleventh token."""
    config = BertConfig(**{**_TINY, "max_position_embeddings": 10})
    model = Heads({"intent": AutoModelForSequenceClassification.from_config(config)}).eval()
    path = _exported(model, tmp_path / "plain.onnx")

    assert simplify(path, 10) is None


def test_what_is_simple_stays_as_it_is(tmp_path: Path) -> None:
    """A second look finds nothing, and adds nothing."""
    path = _exported(make_model("bert"), tmp_path / "plain.onnx")
    assert simplify(path, MAX_LENGTH) is None
    once = path.read_bytes()

    assert simplify(path, MAX_LENGTH) is None

    assert path.read_bytes() == once


@pytest.mark.parametrize("opset", [14, 16])
def test_norms_that_are_written_out_are_cut_too(opset: int, encoder: TextEncoder, tmp_path: Path) -> None:
    """Below opset 17 a norm is six operators; a cut inside it would keep the runtime from fusing them."""
    model = make_model("bert")
    path = tmp_path / "plain.onnx"
    export_graph(model, INPUTS.names, [INTENT], path, opset=opset)

    assert simplify(path, MAX_LENGTH) is None

    _check_says_the_same(path, model, encoder)
    assert _sizes_of(path, "attention query")[1] == [1] * len(SIZES)


@pytest.mark.parametrize("names", [("input_ids",), ("input_ids", "attention_mask", "token_type_ids")])
def test_any_inputs_will_do(names: tuple[str, ...], tmp_path: Path) -> None:
    """Pairs have token types; without a mask every token counts."""
    model = make_model("bert")
    path = tmp_path / "plain.onnx"
    export_graph(model, names, [INTENT], path)
    ids = np.array([[2, 7, 9, 3, 11, 3], [2, 8, 3, 12, 13, 3]])
    types = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]])
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    inputs = {name: given[name] for name in names}

    assert simplify(path, MAX_LENGTH) is None

    answers = session_runner(create_session(path), [INTENT])(inputs)["intent"]
    np.testing.assert_allclose(answers, torch_runner(model)(inputs)["intent"], atol=1e-4)
    assert _sizes_of(path, "feed-forward in")[1] == [1] * len(SIZES)


@pytest.mark.parametrize(
    "config",
    [
        AlbertConfig(**_TINY, embedding_size=16),
        ModernBertConfig(**_TINY, global_attn_every_n_layers=2, local_attention=8, cls_token_id=2, sep_token_id=3),
    ],
    ids=["albert", "modernbert"],
)
def test_shared_layers_and_windows_say_the_same(config: Any, encoder: TextEncoder, tmp_path: Path) -> None:
    """One layer's weights in the place of several, and masks that are more than padding."""
    torch.manual_seed(0)
    config.num_labels = 3
    model = Heads({"intent": AutoModelForSequenceClassification.from_config(config)}).eval()
    path = _exported(model, tmp_path / "plain.onnx")

    assert simplify(path, MAX_LENGTH) is None

    _check_says_the_same(path, model, encoder)


def test_an_encoder_that_wants_a_row_per_query_gets_them(encoder: TextEncoder, tmp_path: Path) -> None:
    """Some check the size of their mask, and were exported before."""
    model = make_model("bert")
    attention = model.get_submodule("models.intent.bert.encoder.layer.0.attention.self")

    def check(module: nn.Module, arguments: Any, keywords: Any) -> None:
        mask = next(value for value in (*arguments[1:], *keywords.values()) if isinstance(value, Tensor))
        if mask.shape[2] != arguments[0].shape[1]:
            raise ValueError("attention mask should be of size [batch, 1, queries, tokens]")

    handle = attention.register_forward_pre_hook(check, with_kwargs=True)
    path = tmp_path / "plain.onnx"
    note = export_graph(model, INPUTS.names, (INTENT,), path)
    handle.remove()

    assert note == "a mask row per query (ValueError: attention mask should be of size [batch, 1, queries, tokens])"
    assert simplify(path, MAX_LENGTH) is None
    _check_says_the_same(path, model, encoder)
    assert "eager" not in ALL_MASK_ATTENTION_FUNCTIONS._local_mapping


def test_exporting_leaves_the_masks_of_transformers_as_they_were(tmp_path: Path) -> None:
    """The next training in this process makes its masks by the same table."""
    before = ALL_MASK_ATTENTION_FUNCTIONS["eager"]

    _exported(make_model("bert"), tmp_path / "plain.onnx")

    assert ALL_MASK_ATTENTION_FUNCTIONS["eager"] is before


def test_a_mask_that_is_more_than_padding_is_made_by_transformers() -> None:
    """Sliding windows hide tokens from one another: one row for all queries would show them."""
    visible = torch.tensor([[True, True, False]])
    causal = graph._padding_mask(
        mask_function=lambda batch, head, query, key: key <= query,
        attention_mask=visible,
        dtype=torch.float32,
        batch_size=1,
        q_length=3,
        kv_length=3,
        use_vmap=False,
    )
    padding = graph._padding_mask(
        mask_function=bidirectional_mask_function, attention_mask=visible, dtype=torch.float32
    )

    least = torch.finfo(torch.float32).min
    assert causal is not None
    assert padding is not None
    assert causal[0, 0].tolist() == [[0, least, least], [0, 0, least], [0, 0, least]]
    assert padding.tolist() == [[[[0, 0, least]]]]
