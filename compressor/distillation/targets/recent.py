"""The last K weights of a student, for self-teachers that need them one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from compressor.distillation.weights.average import averaging_copy, copy_into


class RecentWeights:
    """At most K copies of weights, newest last; the oldest one's memory takes the newest.

    Attributes:
        held: lists of tensors in the order of `model_tensors`.
    """

    def __init__(self, number: int, place: Literal["device", "cpu"], device: torch.device) -> None:
        """Args: number: K, at least 1; place: where the copies lie; device: of the model."""
        self.number = number
        self.device = torch.device("cpu") if place == "cpu" else device
        self.held: deque[list[Tensor]] = deque()

    def push(self, weights: Sequence[Tensor]) -> None:
        """Copy weights in, over the oldest where there are K."""
        if len(self.held) < self.number:
            self.held.append([averaging_copy(tensor, self.device) for tensor in weights])
            return
        oldest = self.held.popleft()
        copy_into(oldest, weights)
        self.held.append(oldest)

    def state(self) -> dict[str, Any]:
        """All copies, oldest first."""
        return {"recent": list(self.held)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.held = deque([tensor.to(self.device) for tensor in weights] for weights in state["recent"])
