"""Switching torch's implementation of attention, for every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compressor.models.attention import attention, attentions_of
from compressor.models.initialise import load_encoder


@pytest.mark.parametrize(("architecture", "expected"), [("bert", ("sdpa", "eager")), ("deberta-v2", ("eager",))])
def test_only_what_an_architecture_has_is_offered(
    checkpoint: Callable[..., Path], architecture: str, expected: tuple[str, ...]
) -> None:
    """An implementation that is asked for and quietly not used would be timed under a false name."""
    encoder = load_encoder(checkpoint(architecture))

    assert attentions_of([encoder]) == expected
    for name in expected:
        with attention([encoder], name):
            assert encoder.config._attn_implementation == name


def test_several_models_share_what_all_of_them_have(checkpoint: Callable[..., Path]) -> None:
    """Two teachers as one variant have one name for their attention."""
    assert attentions_of([load_encoder(checkpoint("bert")), load_encoder(checkpoint("deberta-v2"))]) == ("eager",)


def test_an_error_inside_puts_the_implementation_back(checkpoint: Callable[..., Path]) -> None:
    """One failed timing would change all that follow."""
    encoder = load_encoder(checkpoint("bert"))
    before = encoder.config._attn_implementation

    with pytest.raises(RuntimeError, match="broken"), attention([encoder], "eager"):
        raise RuntimeError("broken")

    assert encoder.config._attn_implementation == before
