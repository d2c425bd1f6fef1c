"""Fusing attention into one operator, for the architectures whose attention ONNX Runtime recognises.

Measured with ONNX Runtime 1.31 on a CPU with AVX-512, 3 and 6 layers of width 384, one thread: fused attention
is 3 to 4% faster for one text and 1 to 2% slower in batches of 8. Nothing else is fused: ONNX Runtime fuses GELU
by itself when it loads a graph, and its SkipLayerNormalization and EmbedLayerNormalization are slower than what
they replace (a graph with all fusions needs 5 to 13% more time). int8 is quantised from the plain graph, since
the quantised form of fused attention is slower too.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from optimum.utils import NormalizedConfigManager

from export.quiet import quiet_logging
from serving.errors import UserError
from serving.session import create_session

FUSED_TYPES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""transformers model types with BERT's attention; a pattern that is not found is noted all the same."""

UNWANTED_FUSIONS = (
    "enable_skip_layer_norm",
    "enable_bias_skip_layer_norm",
    "enable_embed_layer_norm",
    "enable_gelu",
    "enable_bias_gelu",
    "enable_layer_norm",
)
PARITY_LIMIT = 1e-4
CHECK_SHAPES = ((1, 1), (1, 7), (3, 16))


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
        model = optimizer.optimize_model(
            str(plain),
            model_type="bert",
            num_heads=num_heads,
            hidden_size=width,
            optimization_options=_attention_only(),
            opt_level=0,
        )
    num_fused = sum(node.op_type == "Attention" for node in model.model.graph.node)
    if not num_fused:
        return _keep_plain(plain, fused, f"no attention was recognised in the graph of '{config.model_type}'")
    onnx.save_model(model.model, str(fused))
    difference = _largest_difference(plain, fused)
    if not difference <= PARITY_LIMIT:
        return _keep_plain(plain, fused, f"fused attention changed the logits by {difference:.2g}")
    return Fusion(attention=num_fused)


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


def _largest_difference(first: Path, second: Path) -> float:
    """Largest difference of two graphs' outputs over a few shapes with padding, relative to the logits."""
    sessions = [create_session(path) for path in (first, second)]
    worst = 0.0
    for batch, tokens in CHECK_SHAPES:
        inputs = _random_inputs([node.name for node in sessions[0].get_inputs()], batch, tokens)
        for ours, theirs in zip(*(session.run(None, inputs) for session in sessions), strict=True):
            worst = max(worst, float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max()))))
    return worst


def _random_inputs(names: list[str], batch: int, tokens: int) -> Mapping[str, NDArray[np.int64]]:
    """Ids from the start of any vocabulary; the last row is padded by half."""
    ids = np.random.default_rng(0).integers(2, 5, size=(batch, tokens))
    mask = np.ones_like(ids)
    if batch > 1:
        mask[-1, tokens // 2 :] = 0
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: arrays[name] for name in names}
