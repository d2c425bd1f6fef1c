"""Tokenised batches for training: token ids, and what the losses read for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compressor.data.mixture import TaskMixture, TaskPools, pool_shares
from compressor.data.order import LengthGroupedBatchSampler
from compressor.data.splits import Split, TaskData, num_added, training_splits
from compressor.tasks.registry import TASKS
from serving.manifest import TaskSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100
LOOKED_UP = ("labels", "has_label", "is_added", "targets")
_TEXTS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts, one behind the other.

    Attributes:
        input_ids: int32 [all tokens].
        token_type_ids: int32 [all tokens], or None where the tokenizer makes none.
        offsets: int64 [rows + 1]; row r has the tokens offsets[r] to offsets[r + 1].
        num_truncated: rows that were longer than the tokenizer was allowed to keep.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray | None
    offsets: np.ndarray
    num_truncated: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """The columns of one row, each [tokens of the row]."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        columns = {"input_ids": self.input_ids[part]}
        if self.token_type_ids is not None:
            columns["token_type_ids"] = self.token_type_ids[part]
        return columns

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, int64 [rows]."""
        return np.diff(self.offsets)


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], max_length: int) -> Tokens:
    """Token ids of texts or text pairs, each cut to `max_length` tokens (of a pair the longer side first)."""
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    num_truncated = 0
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = texts[start : start + _TEXTS_AT_ONCE]
        encoded = _encode(tokenizer, part, max_length)
        ids += [np.asarray(row, dtype=np.int32) for row in encoded["input_ids"]]
        types += [np.asarray(row, dtype=np.int32) for row in encoded.get("token_type_ids", ())]
        full = [text for text, row in zip(part, encoded["input_ids"], strict=True) if len(row) >= max_length]
        num_truncated += _count_longer(tokenizer, full, max_length)
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    return Tokens(
        input_ids=_joined(ids),
        token_type_ids=_joined(types) if types else None,
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        num_truncated=num_truncated,
    )


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], max_length: int | None
) -> Mapping[str, list[list[int]]]:
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded: Mapping[str, list[list[int]]] = tokenizer(
        *columns,
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        verbose=False,
    )
    return encoded


def _count_longer(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, ...]], max_length: int) -> int:
    """How many texts have more than `max_length` tokens; asked only of those that filled it."""
    if not texts:
        return 0
    return sum(len(row) > max_length for row in _encode(tokenizer, texts, None)["input_ids"])


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class TaskRows:
    """What the losses of one task read, for every row of `compressor.data.splits.training_texts`.

    Attributes:
        name: the task's name.
        labels: as the task's hard loss takes them, [rows] or [rows, labels]. Rows without a label hold -100
            (classification) or NaN, so that a loss which forgets `has_label` cannot learn from them unseen.
        has_label: bool [rows].
        targets: cached teacher logits [rows, outputs], or None.
        num_added: rows at the end that are no rows of the task's own.
    """

    name: str
    labels: Tensor
    has_label: Tensor
    targets: Tensor | None = None
    num_added: int = 0

    def are_added(self, rows: Tensor) -> Tensor:
        """Which of some rows, int64 [batch], were added to the task's own, bool [batch]."""
        return rows >= len(self.labels) - self.num_added


def task_rows(data: TaskData, targets: np.ndarray | None = None) -> TaskRows:
    """The labels of a task's training rows and, if given, its teacher's logits [rows, outputs]."""
    parts = training_splits(data)
    if parts[0].labels is None:
        raise ValueError(f"the train split of task '{data.task.name}' has no labels")
    has_label = torch.cat([torch.full((len(part),), part.labels is not None) for part in parts])
    if targets is not None and len(targets) != len(has_label):
        raise ValueError(f"task '{data.task.name}' has {len(has_label)} rows but targets for {len(targets)}")
    logits = None if targets is None else torch.as_tensor(targets, dtype=torch.float32)
    labels = torch.cat(_labels(parts, data.task))
    return TaskRows(data.task.name, labels, has_label, logits, num_added(data))


def _labels(parts: Sequence[Split], task: TaskSpec) -> list[Tensor]:
    """What the hard loss takes, part by part; the first one has labels."""
    found: list[Tensor] = []
    for part in parts:
        if part.labels is None:
            known = found[0]
            missing = float("nan") if known.is_floating_point() else IGNORED_LABEL
            found.append(torch.full((len(part), *known.shape[1:]), missing, dtype=known.dtype))
        else:
            found.append(torch.from_numpy(TASKS[task.type].targets(part.labels, task)))
    return found


class TaskExamples(Dataset[dict[str, Any]]):
    """The tokenised training rows of several tasks, one behind the other.

    An example is {"input_ids", "token_type_ids" where there are some, "task": position of its task, "row":
    its row within the task}.
    """

    def __init__(self, tokens: Sequence[Tokens]) -> None:
        """Args: tokens: per task, in the order of the collator's tasks."""
        self.tokens = list(tokens)
        self._starts = np.cumsum([0, *(len(part) for part in self.tokens)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no example {index}: there are {len(self)}")
        task = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = index - int(self._starts[task])
        return {**self.tokens[task][row], "task": task, "row": row}

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, int64 [examples]."""
        return np.concatenate([part.lengths for part in self.tokens])


@dataclass(frozen=True)
class Collator:
    """Pads examples to the longest of the batch and looks up what the losses read.

    The batch holds `input_ids`, `attention_mask` and, where the examples have them, `token_type_ids`, each
    int64 [batch, tokens]; and, keyed by task and only for the tasks in the batch: `rows` (positions in the
    batch, int64), and for those positions `labels`, `has_label`, `is_added` and, where there are cached teacher
    logits, `targets`.
    """

    tasks: Sequence[TaskRows]
    pad_id: int
    pad_token_type_id: int = 0

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make one batch of examples as `TaskExamples` gives them."""
        inputs = padded_inputs(examples, self.pad_id, self.pad_token_type_id)
        return {**inputs, **self._lookups(examples)}

    def _lookups(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Tensor]]:
        task_of = torch.tensor([example["task"] for example in examples])
        row_of = torch.tensor([example["row"] for example in examples])
        found: dict[str, dict[str, Tensor]] = {name: {} for name in ("rows", *LOOKED_UP)}
        for position in sorted({int(example["task"]) for example in examples}):
            task = self.tasks[position]
            rows = torch.nonzero(task_of == position).flatten()
            found["rows"][task.name] = rows
            found["labels"][task.name] = task.labels[row_of[rows]]
            found["has_label"][task.name] = task.has_label[row_of[rows]]
            found["is_added"][task.name] = task.are_added(row_of[rows])
            if task.targets is not None:
                found["targets"][task.name] = task.targets[row_of[rows]]
        return found


def padded_inputs(rows: Sequence[Mapping[str, Any]], pad_id: int, pad_token_type_id: int = 0) -> dict[str, Tensor]:
    """Rows of tokens as a model reads them, padded to the longest.

    Args:
        rows: `input_ids` and, where there are some, `token_type_ids`, each [tokens of the row]; at least one row.
        pad_id: fills short rows.
        pad_token_type_id: fills their token types.

    Returns:
        `input_ids`, `attention_mask` and, where rows have them, `token_type_ids`, each int64 [batch, tokens].
    """
    batch = {"input_ids": _padded([row["input_ids"] for row in rows], pad_id)}
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    if "token_type_ids" in rows[0]:
        batch["token_type_ids"] = _padded([row["token_type_ids"] for row in rows], pad_token_type_id)
    return batch


def _padded(rows: Sequence[np.ndarray], filler: int) -> Tensor:
    padded = np.full((len(rows), max(len(row) for row in rows)), filler, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


def train_loader(
    examples: TaskExamples,
    collator: Collator,
    batch_size: int,
    *,
    seed: int,
    task_exponent: float,
    target_share: float | None = None,
) -> DataLoader[Any]:
    """Length-grouped batches of an epoch; iterating it does not touch the global random state.

    The loader has a generator of its own because torch otherwise draws a worker seed from the global one.

    Args:
        examples: of one task, of which every epoch reads each row once, or of several, which are mixed; so are a task's
            own rows and added ones where `target_share` says how.
        collator: makes a batch.
        batch_size: rows per batch.
        seed: of the order.
        task_exponent: see `task_probabilities`; read where there are several tasks.
        target_share: see `pool_shares`; read where there are added rows.
    """
    added = [rows.num_added for rows in collator.tasks]
    tasks = [TaskPools(len(part) - more, more) for part, more in zip(examples.tokens, added, strict=True)]
    is_mixed = len(tasks) > 1 or (tasks[0].added > 0 and target_share is not None)
    sizes, shares = zip(*pool_shares(tasks, task_exponent, target_share), strict=True)
    mixture = TaskMixture(sizes, shares, seed=seed) if is_mixed else None
    sampler = LengthGroupedBatchSampler(examples.lengths, batch_size, seed=seed, mixture=mixture)
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(examples, batch_sampler=sampler, collate_fn=collator, generator=generator)
