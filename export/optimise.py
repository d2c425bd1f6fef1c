"""Fusing attention into one operator, for the architectures whose attention ONNX Runtime recognises.

Where the last layer has one query per text (`export.simplify`), its attention stays as it is; a student of one layer
has no other. Measured with ONNX Runtime 1.31 on a CPU with AVX-512, 3 and 6 layers of width 384, all of them fused,
one thread: fused attention is 3 to 4% faster for one text and 1 to 2% slower in batches of 8. Nothing else is fused:
ONNX Runtime fuses GELU by itself when it loads a graph, and its SkipLayerNormalization and EmbedLayerNormalization are
slower than what they replace (a graph with all fusions needs 5 to 13% more time). int8 is quantised from the plain
graph, since the quantised form of fused attention is slower too.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from optimum.utils import NormalizedConfigManager

from export.agreement import LIMIT, relative_difference
from export.nodes import replace_nodes
from export.quiet import quiet_logging
from serving.errors import UserError

FUSED_TYPES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""transformers model types with BERT's attention; a pattern that is not found is noted all the same."""

_SAME_SIZE = "mask_of_the_same_size"

UNWANTED_FUSIONS = (
    "enable_skip_layer_norm",
    "enable_bias_skip_layer_norm",
    "enable_embed_layer_norm",
    "enable_gelu",
    "enable_bias_gelu",
    "enable_layer_norm",
)


@dataclass(frozen=True)
class Fusion:
    """What fusing did to a graph.

    Attributes:
        attention: number of fused attention operators; 0 where the plain graph was kept.
        note: why the plain graph was kept; None where attention was fused.
    """

    attention: int
    note: str | None = None


def fuse_attention(plain: Path, fused: Path, config: Any) -> Fusion:
    """Write a graph with fused attention, or a copy of the plain one and the reason for it.

    Args:
        plain: the exported graph; its outputs are what the fused one must give too.
        fused: the file to write.
        config: transformers configuration of the encoder: model type, heads and width are read from it.

    Raises:
        UserError: a model type whose graph can be fused has a configuration without heads or width.
    """
    if config.model_type not in FUSED_TYPES:
        return _keep_plain(plain, fused, f"no fusion is known for model type '{config.model_type}'")
    num_heads, width = _dimensions(config)
    with quiet_logging():
        model = optimizer.optimize_by_fusion(
            _with_expanded_mask(plain),
            model_type="bert",
            num_heads=num_heads,
            hidden_size=width,
            optimization_options=_attention_only(),
        )
    num_fused = sum(node.op_type == "Attention" for node in model.model.graph.node)
    if not num_fused:
        return _keep_plain(plain, fused, f"no attention could be fused in the graph of '{config.model_type}'")
    onnx.save_model(model.model, str(fused))
    difference = relative_difference(plain, fused)
    if not difference <= LIMIT:
        return _keep_plain(plain, fused, f"fused attention changed the logits by {difference:.2g}")
    return Fusion(attention=num_fused)


def _with_expanded_mask(plain: Path) -> onnx.ModelProto:
    """A graph whose mask is made as older versions of transformers did: the optimizer knows it by an Expand.

    `export.graph` makes it by Sub(1, Cast(Unsqueeze(Unsqueeze(mask)))). The Expand repeats nothing, for the mask of
    [batch, 1, 1, tokens] is read by all queries as it is; it stays where a layer is not fused.
    """
    model = onnx.load(plain)
    makers = {name: node for node in model.graph.node for name in node.output}
    masks = {
        cast.input[0]
        for cast in (makers.get(node.input[1]) for node in model.graph.node if node.op_type == "Sub")
        if cast is not None and cast.op_type == "Cast" and _is_lifted(cast.input[0], makers)
    }
    if not masks:
        return model
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for name in masks.intersection(node.output):
            nodes.append(helper.make_node("Expand", [f"{name}_whole", _SAME_SIZE], [name], name=f"{name}_Expand"))
            node.output[0] = f"{name}_whole"
    replace_nodes(model.graph, nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, dtype=np.int64), _SAME_SIZE))
    return model


def _is_lifted(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a tensor got two axes, as a mask of [batch, tokens] does."""
    last = makers.get(name)
    before = makers.get(last.input[0]) if last is not None and last.op_type == "Unsqueeze" else None
    return before is not None and before.op_type == "Unsqueeze"


def _keep_plain(plain: Path, fused: Path, reason: str) -> Fusion:
    shutil.copyfile(plain, fused)
    return Fusion(attention=0, note=f"{reason}; the plain graph is kept")


def _dimensions(config: Any) -> tuple[int, int]:
    """Number of attention heads and hidden width, whatever the architecture calls them."""
    try:
        dimensions = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
        return int(dimensions.num_attention_heads), int(dimensions.hidden_size)
    except (AttributeError, KeyError) as error:
        raise UserError(
            f"the configuration of this '{config.model_type}' model does not tell its heads or width "
            f"({error}). Take the config.json that belongs to the checkpoint."
        ) from error


def _attention_only() -> FusionOptions:
    options = FusionOptions("bert")
    for name in UNWANTED_FUSIONS:
        setattr(options, name, False)
    return options
