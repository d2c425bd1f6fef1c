"""Layer-wise learning rates: the deeper a layer lies below the heads, the less it is moved.

Source: Clark et al. (2019), arXiv:1907.04829 (BAM), after Howard and Ruder (2018), arXiv:1801.06146: the rate of depth
d is rate * decay^(L + 2 - d), with the embeddings at depth 0, layer l at l + 1, the pooler at L + 1 and the heads at
L + 2 [paper]. What lies where is read off the model's structure, so that no name can catch another one [ours].
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from compressor.models.task_model import TaskModel
from compressor.recipe import TrainingSettings
from serving.errors import UserError


@dataclass(frozen=True)
class LayerRates:
    """Peak learning rates by depth.

    Attributes:
        peak: of the heads, unless they have a rate of their own; above 0.
        decay: from one depth to the one below, in (0, 1].
        head: of the heads, or None.
    """

    peak: float
    decay: float
    head: float | None

    def of(self, depth: int, num_layers: int) -> float:
        """Peak of a depth, 0 (embeddings) to num_layers + 2 (heads)."""
        above = num_layers + 2 - depth
        return self.head if above == 0 and self.head is not None else self.peak * self.decay**above


def layer_rates(settings: TrainingSettings) -> LayerRates | None:
    """The rates that the settings ask for; None where all parameters share one."""
    if settings.layer_decay == 1.0 and settings.head_learning_rate is None:
        return None
    return LayerRates(settings.learning_rate, settings.layer_decay, settings.head_learning_rate)


def parameter_groups(
    model: TaskModel, rates: LayerRates, *, decayed: Collection[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for an optimizer, the heads first, whose rate is the one that is logged.

    Args:
        model: whose trainable parameters each get into one group.
        rates: by depth.
        decayed: names of the parameters that weight decay acts on.
        weight_decay: of these.
    """
    num_layers = len(_layers(model.encoder))
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, depth in depths(model).items():
        groups.setdefault((depth, name in decayed), []).append(model.get_parameter(name))
    return [
        {"params": found, "lr": rates.of(depth, num_layers), "weight_decay": weight_decay if is_decayed else 0.0}
        for (depth, is_decayed), found in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]


def depths(model: TaskModel) -> dict[str, int]:
    """Depth of every trainable parameter by its name.

    What the encoder holds outside of its layers and its pooler is at depth 0: embeddings and their projections, tables
    of relative positions, a norm that all layers share. What only a task's head has is head, a pooler of its own too.
    """
    layers = _layers(model.encoder)
    known = {id(parameter): place + 1 for place, layer in enumerate(layers) for parameter in layer.parameters()}
    pooler = getattr(model.encoder, "pooler", None)
    if isinstance(pooler, nn.Module):
        known |= {id(parameter): len(layers) + 1 for parameter in pooler.parameters()}
    known |= {id(parameter): len(layers) + 2 for parameter in model.heads.parameters()}
    return {name: known.get(id(found), 0) for name, found in model.named_parameters() if found.requires_grad}


def _layers(encoder: nn.Module) -> nn.ModuleList:
    """The encoder's layers: of its lists of modules the one that holds most. Layers that share weights are one.

    Raises:
        UserError: it has no such list.
    """
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UserError(
            f"the layers of a {type(encoder).__name__} could not be found, so they can have no learning rates of their "
            "own. Leave training.layer_decay at 1 and training.head_learning_rate out."
        )
    return max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters()))
