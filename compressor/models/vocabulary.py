"""Training only the rows of the word embeddings that the training texts use.

A small encoder's embeddings are half of its parameters, and a fine-tuning set touches a tenth of them. AdamW
without weight decay never moves a row whose gradient was always zero, so leaving those rows out of the
optimizer changes nothing in the result and saves the time to update, clip and checkpoint them [ours].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from compressor.models.task_model import TaskModel


class UsedRows(nn.Module):
    """An embedding that holds only some rows of a larger one and is asked by the larger one's ids."""

    position: Tensor

    def __init__(self, embedding: nn.Embedding, used: Tensor) -> None:
        """Args: embedding: the full table; used: int64 [rows], its ids that may be asked for, ascending."""
        super().__init__()
        self.weight = nn.Parameter(embedding.weight.detach()[used].clone())
        position = torch.full((embedding.num_embeddings,), -1, dtype=torch.int64)
        position[used] = torch.arange(len(used))
        self.register_buffer("position", position, persistent=False)
        padding = embedding.padding_idx
        self.padding_position = None if padding is None else int(position[padding])

    def forward(self, ids: Tensor) -> Tensor:
        """Rows for ids [batch, tokens] -> [batch, tokens, width]; an id that was left out is an error."""
        return nn.functional.embedding(self.position[ids], self.weight, padding_idx=self.padding_position)


def train_used_rows(model: TaskModel, ids: Iterable[np.ndarray], always: Iterable[int]) -> Callable[[], None]:
    """Replace the model's word embeddings by the rows that some texts use, until the returned call.

    Args:
        model: changed in place.
        ids: token ids of every text that the model will read meanwhile.
        always: ids that are used whatever the texts say (padding).

    Returns:
        A function that puts the full table back, with the trained rows in their places.
    """
    full = model.encoder.get_input_embeddings()
    if type(full) is not nn.Embedding:
        return lambda: None
    known = [np.unique(part) for part in ids]
    keep = {int(value) for value in always}
    if full.padding_idx is not None:
        keep.add(full.padding_idx)
    used = torch.from_numpy(
        np.unique(np.concatenate([*known, np.array(sorted(keep), dtype=np.int64)])).astype(np.int64)
    )
    compact = UsedRows(full, used)
    model.encoder.set_input_embeddings(compact)

    def restore() -> None:
        with torch.no_grad():
            full.weight.data = full.weight.data.to(compact.weight.device)
            full.weight[used.to(full.weight.device)] = compact.weight.detach()
        model.encoder.set_input_embeddings(full)

    return restore
