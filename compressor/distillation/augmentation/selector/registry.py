"""Every way of credit, by the name a recipe uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from compressor.distillation.augmentation.selector.credit import Credit
from compressor.distillation.augmentation.selector.credit_alignment import Alignment
from compressor.distillation.augmentation.selector.credit_datamodel import Datamodel
from compressor.distillation.augmentation.selector.credit_reinforce import Reinforce

CREDITS: Mapping[str, Callable[..., Credit]] = MappingProxyType(
    {
        "reinforce": Reinforce,
        "alignment": Alignment,
        "datamodel": Datamodel,
    }
)
