"""A toy bundle: a word-level tokenizer and a graph that averages one row of a table per token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from serving.certification import certify_here
from serving.golden import record_golden, write_golden
from serving.hashing import hash_file
from serving.manifest import GOLDEN_FILE, Artifact, InputSpec, Manifest, TaskSpec, read_manifest, write_manifest
from serving.model import OnnxModel
from serving.session import create_session
from serving.tokenise import TextEncoder

MAX_LENGTH = 8
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "refund", "broken", "thanks", "please", "poison")
INTENT = TaskSpec(name="intent", type="classification", labels=("billing", "defect", "praise"), output="logits_intent")
TOPICS = TaskSpec(
    name="topics", type="multilabel", labels=("money", "goods"), thresholds=(0.6, 0.4), output="logits_topics"
)
URGENCY = TaskSpec(name="urgency", type="regression", range=(1.0, 5.0), output="logits_urgency")
TASKS = (INTENT, TOPICS, URGENCY)
GOLDEN_TEXTS = [
    "refund",
    "broken thanks",
    "thanks",
    "please refund",
    "broken",
    "broken please",
    "refund refund",
]
GOLDEN_TEXTS += ["thanks please", "please", "unheard words"]


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def _table(task: TaskSpec, seed: int) -> NDArray[np.float32]:
    table = np.random.default_rng(seed).normal(size=(len(WORDS), task.num_outputs)).astype(np.float32)
    table[WORDS.index("poison")] = np.nan
    return table


def _graph(path: Path, tasks: tuple[TaskSpec, ...], is_batch_dependent: bool) -> None:
    """Mean of the table rows of the unmasked tokens; a batch-dependent one adds the batch's highest id."""
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["mask_column"]),
        helper.make_node("ReduceSum", ["mask_column", "token_axis"], ["num_tokens"], keepdims=0),
        helper.make_node("ReduceMax", ["input_ids"], ["highest"], keepdims=0),
        helper.make_node("Cast", ["highest"], ["neighbours"], to=TensorProto.FLOAT),
    ]
    constants = [
        numpy_helper.from_array(np.array([2]), "last_axis"),
        numpy_helper.from_array(np.array([1]), "token_axis"),
    ]
    for index, task in enumerate(tasks):
        constants.append(numpy_helper.from_array(_table(task, seed=index), f"table{index}"))
        nodes += [
            helper.make_node("Gather", [f"table{index}", "input_ids"], [f"rows{index}"]),
            helper.make_node("Mul", [f"rows{index}", "mask_column"], [f"kept{index}"]),
            helper.make_node("ReduceSum", [f"kept{index}", "token_axis"], [f"sum{index}"], keepdims=0),
            helper.make_node("Div", [f"sum{index}", "num_tokens"], [f"mean{index}"]),
            helper.make_node("Add", [f"mean{index}", "neighbours"], [task.output])
            if is_batch_dependent
            else helper.make_node("Identity", [f"mean{index}"], [task.output]),
        ]
    axes = ["batch", "tokens"]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info(task.output, TensorProto.FLOAT, ["batch", task.num_outputs]) for task in tasks],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def _artifact(path: Path, precision: str, batch_invariant: bool) -> Artifact:
    return Artifact(
        precision=precision,
        file=path.name,
        sha256=hash_file(path),
        bytes=path.stat().st_size,
        opset=18,
        ir_version=9,
        batch_invariant=batch_invariant,
        certified=certify_here(),
        passed=True,
    )


def make_bundle(folder: Path, tasks: tuple[TaskSpec, ...], columns: tuple[str, ...]) -> Path:
    """Write a whole bundle: fp32 (batch-invariant) and int8 (its answers depend on the batch)."""
    folder.mkdir(parents=True)
    _tokenizer().save(str(folder / "tokenizer.json"))
    inputs = InputSpec(names=("input_ids", "attention_mask"), pad_id=0, max_length=MAX_LENGTH, text_columns=columns)
    encoder = TextEncoder.load(folder / "tokenizer.json", inputs)
    texts = [(text,) * len(columns) for text in GOLDEN_TEXTS]
    artifacts, logits = [], {}
    for precision in ("fp32", "int8"):
        path = folder / f"model.{precision}.onnx"
        _graph(path, tasks, is_batch_dependent=precision == "int8")
        artifacts.append(_artifact(path, precision, batch_invariant=precision == "fp32"))
        logits[precision] = OnnxModel(create_session(path), encoder, tasks).run(encoder.encode(texts))
    write_golden(folder, record_golden(texts, encoder, tasks, logits))
    manifest = Manifest(
        name="toy",
        version="1",
        tasks=tasks,
        inputs=inputs,
        artifacts=tuple(artifacts),
        default_artifact="fp32",
        files={name: hash_file(folder / name) for name in ("tokenizer.json", GOLDEN_FILE)},
    )
    write_manifest(folder, manifest)
    return folder


def change_manifest(folder: Path, **changes: object) -> None:
    """Rewrite some fields of a bundle's manifest."""
    write_manifest(folder, msgspec.structs.replace(read_manifest(folder), **changes))


def change_golden(folder: Path, **changes: object) -> None:
    """Rewrite some fields of the golden examples, and their hash in the manifest."""
    path = folder / GOLDEN_FILE
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | changes))
    files = read_manifest(folder).files | {GOLDEN_FILE: hash_file(path)}
    change_manifest(folder, files=files)


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    """A bundle with one task of each type, over single texts."""
    return make_bundle(tmp_path / "bundle", TASKS, ("text",))


@pytest.fixture
def pair_bundle_folder(tmp_path: Path) -> Path:
    """A bundle over pairs of texts."""
    return make_bundle(tmp_path / "pairs", (INTENT,), ("premise", "hypothesis"))


@pytest.fixture
def tokenizer() -> Tokenizer:
    """The toy tokenizer alone."""
    return _tokenizer()


@pytest.fixture
def edit_manifest() -> Callable[..., None]:
    """`edit_manifest(folder, field=value)` rewrites fields of a bundle's manifest."""
    return change_manifest


@pytest.fixture
def edit_golden() -> Callable[..., None]:
    """`edit_golden(folder, field=value)` rewrites fields of its golden examples and keeps the hash right."""
    return change_golden
