"""Layer-wise learning rates: what lies at which depth, in every architecture, and what the optimizer makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertForSequenceClassification, BertConfig, BertForSequenceClassification

from compressor.distillation.rates import LayerRates, depths, layer_rates, parameter_groups
from compressor.distillation.trainer import DistillationTrainer
from compressor.models.initialise import pretrained_model
from compressor.models.task_model import TaskModel, new_head
from compressor.models.vocabulary import train_used_rows
from compressor.recipe import TrainingSettings
from serving.errors import UserError
from serving.manifest import TaskSpec

TOPIC = TaskSpec(name="topic", type="classification", labels=("billing", "delivery", "account"))
URGENCY = TaskSpec(name="urgency", type="regression", range=(0.0, 5.0))
ARCHITECTURES = ["bert", "distilbert", "roberta", "electra", "mpnet", "deberta-v2"]
SHARED = {  # at depth 0 beside the embeddings
    "deberta-v2": ("encoder.encoder.rel_embeddings.weight", "encoder.encoder.LayerNorm.weight"),
    "mpnet": ("encoder.encoder.relative_attention_bias.weight",),
    "electra": ("encoder.embeddings_project.weight",),
}


@pytest.fixture(scope="module")
def model(checkpoint: Callable[..., Path]) -> Callable[[str], TaskModel]:
    """A factory: architecture -> a TaskModel of four layers with two heads."""
    return lambda architecture: pretrained_model(str(checkpoint(architecture)), [TOPIC, URGENCY], seed=0)


def test_the_rates_are_those_of_the_paper() -> None:
    """Golden: 12 layers at 0.9 leave the embeddings 0.9^14 = .2288; one power less would go unseen."""
    rates = LayerRates(peak=1e-4, decay=0.9, head=None)
    assert rates.of(0, 12) == pytest.approx(1e-4 * 0.2288, abs=1e-4 * 5e-5)
    assert rates.of(14, 12) == 1e-4
    assert rates.of(13, 12) == pytest.approx(0.9e-4)  # the pooler
    assert rates.of(12, 12) == pytest.approx(0.81e-4)  # the last layer
    own = LayerRates(peak=1e-4, decay=0.9, head=1e-3)
    assert own.of(14, 12) == 1e-3
    assert own.of(13, 12) == rates.of(13, 12)


def test_settings_that_ask_for_nothing_make_no_groups() -> None:
    """Catches another optimizer, and other weights, for recipes that never heard of layers."""
    assert layer_rates(TrainingSettings()) is None
    assert layer_rates(TrainingSettings(layer_decay=0.9)) == LayerRates(2e-4, 0.9, None)
    assert layer_rates(TrainingSettings(head_learning_rate=1e-3)) == LayerRates(2e-4, 1.0, 1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_trainable_parameter_is_in_exactly_one_group(
    architecture: str, model: Callable[[str], TaskModel]
) -> None:
    """A parameter in no group is never trained, one in two is moved twice; neither is an error."""
    made = model(architecture)
    next(made.encoder.parameters()).requires_grad_(False)
    groups = parameter_groups(made, LayerRates(1e-4, 0.9, None), decayed=[], weight_decay=0.0)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in made.parameters() if parameter.requires_grad}
    assert {group["lr"] for group in groups} >= {1e-4, 1e-4 * 0.9**6}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_lie_at_their_depths(architecture: str, model: Callable[[str], TaskModel]) -> None:
    """Catches a table shared by all layers that counts as the last one, or a dense head that counts as a layer."""
    made = model(architecture)
    found = depths(made)
    assert set(found.values()) == {0, 1, 2, 3, 4, 6} | ({5} if architecture == "bert" else set())
    assert {depth for name, depth in found.items() if name.startswith("heads.")} == {6}
    assert {depth for name, depth in found.items() if ".embeddings." in name} == {0}
    for name in SHARED.get(architecture, ()):
        assert found[name] == 0, name
    for name, depth in found.items():
        if 1 <= depth <= 4:
            assert f".{depth - 1}." in name, name
        elif depth == 5:
            assert ".pooler." in name
    assert len([name for name in found if found[name] == 1]) == len([name for name in found if found[name] == 4])


def test_the_first_layer_does_not_catch_the_eleventh() -> None:
    """Catches a search for `layer.1` in names."""
    config = BertConfig(vocab_size=9, hidden_size=4, num_attention_heads=1, intermediate_size=4, num_hidden_layers=12)
    encoder = BertForSequenceClassification(config).base_model
    found = depths(TaskModel(encoder, {"topic": new_head(config, TOPIC)}, [TOPIC]))
    assert found["encoder.encoder.layer.1.output.dense.weight"] == 2
    assert found["encoder.encoder.layer.11.output.dense.weight"] == 12
    assert found["encoder.encoder.layer.10.output.dense.weight"] == 11
    assert found["encoder.pooler.dense.weight"] == 13


def test_layers_that_share_their_weights_count_as_one() -> None:
    """ALBERT's twelve layers are one set of weights: it cannot have twelve rates, and must not be taken for heads."""
    config = AlbertConfig(
        vocab_size=9, embedding_size=4, hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=12
    )
    encoder = AlbertForSequenceClassification(config).base_model
    found = depths(TaskModel(encoder, {"topic": new_head(config, TOPIC)}, [TOPIC]))
    assert found["encoder.embeddings.word_embeddings.weight"] == 0
    assert found["encoder.encoder.embedding_hidden_mapping_in.weight"] == 0
    assert {depth for name, depth in found.items() if "albert_layer" in name} == {1}
    assert found["encoder.pooler.weight"] == 2
    assert {depth for name, depth in found.items() if name.startswith("heads.")} == {3}


def test_the_rows_in_use_of_the_word_embeddings_lie_at_their_depth(model: Callable[[str], TaskModel]) -> None:
    """Catches a stand-in for the embeddings that is trained like a head, or not at all."""
    made = model("bert")
    restore = train_used_rows(made, [np.array([3, 5])], always=[0])
    assert depths(made)["encoder.embeddings.word_embeddings.weight"] == 0
    restore()


def test_an_encoder_without_layers_is_an_error() -> None:
    """Catches rates that are asked for and silently not there."""

    class Flat(nn.Module):
        config = BertConfig()

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return input_ids

    flat = Flat()
    model = TaskModel(flat, {}, [])
    with pytest.raises(UserError, match=r"the layers of a Flat could not be found.*Leave training.layer_decay at 1"):
        depths(model)


def test_weight_decay_spares_biases_and_norms_at_every_depth(model: Callable[[str], TaskModel]) -> None:
    """Catches groups by depth that forget what the ordinary groups know."""
    made = model("deberta-v2")
    decayed = DistillationTrainer.get_decay_parameter_names(None, made)
    groups = parameter_groups(made, LayerRates(1e-4, 0.9, None), decayed=decayed, weight_decay=0.01)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    for group in groups:
        assert group["weight_decay"] in (0.0, 0.01)
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert (group["weight_decay"] == 0.0) == (name.endswith("bias") or "LayerNorm" in name), name
    assert [group["lr"] for group in groups] == sorted((group["lr"] for group in groups), reverse=True)
