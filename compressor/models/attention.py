"""Which of torch's implementations of attention a model computes with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import PreTrainedModel

SDPA, EAGER = "sdpa", "eager"


def attentions_of(encoders: Sequence[PreTrainedModel]) -> tuple[str, ...]:
    """The implementations that all of the encoders have."""
    return (SDPA, EAGER) if all(getattr(encoder, "_supports_sdpa", False) for encoder in encoders) else (EAGER,)


@contextmanager
def attention(encoders: Sequence[PreTrainedModel], name: str) -> Iterator[None]:
    """Compute with an implementation of `attentions_of` within the block, and as before afterwards."""
    before = [encoder.config._attn_implementation for encoder in encoders]
    for encoder in encoders:
        encoder.set_attn_implementation(name)
    try:
        yield
    finally:
        for encoder, implementation in zip(encoders, before, strict=True):
            encoder.set_attn_implementation(implementation)
