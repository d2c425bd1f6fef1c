"""Tokens, and what a batch of several tasks holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from compressor.data.batches import (
    Collator,
    TaskExamples,
    Tokens,
    task_rows,
    tokenise,
    train_loader,
)
from compressor.data.order import LengthGroupedBatchSampler
from compressor.data.splits import Split, TaskData, training_texts
from serving.manifest import TaskSpec


def two_tasks() -> list[TaskData]:
    """A classification with an unlabelled text, and a regression."""
    intent = TaskData(
        TaskSpec(name="intent", type="classification", labels=("a", "b", "c")),
        {"train": Split([("one",), ("twenty",)], np.array([2, 1])), "unlabelled": Split([("more",)])},
        ("text",),
    )
    urgency = TaskData(
        TaskSpec(name="urgency", type="regression", range=(10.0, 20.0)),
        {"train": Split([("x",), ("yy",)], np.array([10, 15], dtype=np.float32))},
        ("text",),
    )
    return [intent, urgency]


@pytest.fixture
def examples(tokenizer: PreTrainedTokenizerFast) -> TaskExamples:
    return TaskExamples([tokenise(tokenizer, training_texts(data), 8) for data in two_tasks()])


def collator() -> Collator:
    logits = np.arange(9, dtype=np.float32).reshape(3, 3)
    intent, urgency = two_tasks()
    return Collator([task_rows(intent, logits), task_rows(urgency)], pad_id=0, pad_token_type_id=9)


def test_tokens_are_the_tokenizers_own(tokenizer: PreTrainedTokenizerFast) -> None:
    """Rows stored one behind the other and cut at the wrong place would be texts of other rows."""
    texts: list[tuple[str, ...]] = [("ab", "c"), ("abcdefgh", "xy"), ("", "z")]
    tokens = tokenise(tokenizer, texts, 9)
    for row, text in enumerate(texts):
        expected = tokenizer(*text, truncation=True, max_length=9)
        assert tokens[row]["input_ids"].tolist() == expected["input_ids"]
        assert tokens[row]["token_type_ids"].tolist() == expected["token_type_ids"]
    assert tokens.lengths.tolist() == [6, 9, 4]


def test_only_texts_that_lost_tokens_count_as_truncated(tokenizer: PreTrainedTokenizerFast) -> None:
    """A text of exactly the limit loses nothing; counting it would warn about data that are whole."""
    tokens = tokenise(tokenizer, [("abc",), ("abcd",), ("abcde",), ("abcdefgh",)], 6)
    assert tokens.num_truncated == 2
    assert tokens.lengths.max() == 6


def test_no_texts_make_no_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """An empty unlabelled file must not end in an error about arrays."""
    assert len(tokenise(tokenizer, [], 8)) == 0


def test_examples_of_all_tasks_come_behind_one_another(examples: TaskExamples) -> None:
    """An offset of one would pair each text with its neighbour's label."""
    found = [(examples[i]["task"], examples[i]["row"], len(examples[i]["input_ids"])) for i in range(5)]
    assert found == [(0, 0, 5), (0, 1, 8), (0, 2, 6), (1, 0, 3), (1, 1, 4)]
    assert examples.lengths.tolist() == [5, 8, 6, 3, 4]
    with pytest.raises(IndexError):
        examples[5]


def test_a_mixed_batch_is_padded_and_looked_up(examples: TaskExamples) -> None:
    """Labels in the order of tasks instead of the batch would train every head on foreign rows."""
    batch = collator()([examples[i] for i in (4, 2, 0)])
    assert batch["input_ids"].shape == (3, 6)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 1, 1, 1, 0]]
    assert batch["input_ids"][0].tolist() == [1, ord("y"), ord("y"), 2, 0, 0]
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 9, 9]
    assert {name: rows.tolist() for name, rows in batch["rows"].items()} == {"intent": [1, 2], "urgency": [0]}
    assert batch["has_label"]["intent"].tolist() == [False, True]
    assert batch["labels"]["intent"].tolist() == [-100, 2]
    assert batch["labels"]["urgency"].tolist() == [0.5]
    assert batch["targets"]["intent"].tolist() == [[6.0, 7.0, 8.0], [0.0, 1.0, 2.0]]
    assert "urgency" not in batch["targets"]


def test_a_task_without_rows_in_the_batch_is_absent(examples: TaskExamples) -> None:
    """An empty entry would make the mean over its rows NaN, and every weight after it."""
    batch = collator()([examples[3], examples[4]])
    assert {name: list(batch[name]) for name in ("rows", "labels", "has_label", "is_added", "targets")} == {
        "rows": ["urgency"],
        "labels": ["urgency"],
        "has_label": ["urgency"],
        "is_added": ["urgency"],
        "targets": [],
    }


def test_texts_without_labels_have_none_that_could_be_learned() -> None:
    """A filler like 0 would teach the first class to every unlabelled text if a loss forgot to look."""
    intent, _ = two_tasks()
    assert task_rows(intent).labels.tolist() == [2, 1, -100]
    tags = TaskData(
        TaskSpec(name="tags", type="multilabel", labels=("a", "b")),
        {"train": Split([("x",)], np.ones((1, 2), dtype=np.float32)), "unlabelled": Split([("y",)])},
        ("text",),
    )
    rows = task_rows(tags)
    assert rows.labels[1].isnan().all()
    assert rows.has_label.tolist() == [True, False]


def with_added_texts(labels: np.ndarray | None = None) -> TaskData:
    """The intent task (2 train rows, 1 without label) with four texts that were added."""
    intent, _ = two_tasks()
    added = Split([("p",), ("q",), ("r",), ("s",)], labels)
    return replace(intent, splits={**intent.splits, "added": added})


def test_added_texts_come_last_and_are_marked() -> None:
    """Catches added rows that are taken for the task's own, or that stand in another order than their targets."""
    data = with_added_texts()
    assert [text for (text,) in training_texts(data)][-4:] == ["p", "q", "r", "s"]
    rows = task_rows(data, np.zeros((7, 3)))
    assert rows.are_added(torch.arange(7)).tolist() == [False] * 3 + [True] * 4
    assert rows.has_label.tolist() == [True, True] + [False] * 5
    gold = task_rows(with_added_texts(np.array([0, 1, 2, 0])))
    assert gold.labels.tolist() == [2, 1, -100, 0, 1, 2, 0]
    assert gold.has_label.tolist() == [True, True, False] + [True] * 4
    assert not task_rows(two_tasks()[0]).are_added(torch.arange(3)).any()


def test_a_loader_reads_added_texts_once_or_by_the_share_of_the_targets_own(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Catches a share that counts the wrong rows, and a mixture where every row was to be read once."""
    data = with_added_texts()
    examples = TaskExamples([tokenise(tokenizer, training_texts(data), 8)])
    collator = Collator([task_rows(data, np.zeros((7, 3)))], pad_id=0)
    once = train_loader(examples, collator, 2, seed=0, task_exponent=0.75).batch_sampler
    assert sorted(row for batch in once for row in batch) == list(range(7))  # type: ignore[union-attr]
    mixed = train_loader(examples, collator, 2, seed=0, task_exponent=0.75, target_share=0.9).batch_sampler
    assert isinstance(mixed, LengthGroupedBatchSampler)
    assert mixed.mixture is not None
    assert mixed.mixture.sizes == (3, 4)
    np.testing.assert_allclose(mixed.mixture.probabilities, [0.9, 0.1])


def test_cached_targets_of_other_rows_are_refused() -> None:
    """A cache from before the data changed would pair texts with foreign targets."""
    with pytest.raises(ValueError, match="3 rows but targets for 2"):
        task_rows(two_tasks()[0], np.zeros((2, 3)))


def test_iterating_the_loader_leaves_the_global_random_state_alone(examples: TaskExamples) -> None:
    """A DataLoader draws a seed from the global state: dropout would then depend on the loader."""
    loader = train_loader(examples, collator(), 2, seed=0, task_exponent=0.75)
    before = torch.get_rng_state()
    rows = sum(len(batch["input_ids"]) for batch in loader)
    assert rows == 6  # three full batches
    assert torch.equal(torch.get_rng_state(), before)


def test_tokens_without_types_make_batches_without_types() -> None:
    """A DistilBERT refuses token_type_ids that nobody made."""
    tokens = Tokens(np.array([1, 2, 1], dtype=np.int32), None, np.array([0, 2, 3]), 0)
    examples = TaskExamples([tokens])
    batch = Collator([task_rows(two_tasks()[1])], pad_id=7)([examples[0], examples[1]])
    assert "token_type_ids" not in batch
    assert batch["input_ids"].tolist() == [[1, 2], [1, 7]]


def test_a_loader_mixes_several_tasks_and_reads_a_single_one_as_ever(examples: TaskExamples) -> None:
    """Catches an exponent that nobody reads, and a training of one task whose order it changes."""
    mixed = train_loader(examples, collator(), 2, seed=4, task_exponent=0.5).batch_sampler
    assert isinstance(mixed, LengthGroupedBatchSampler)
    assert mixed.mixture is not None
    assert mixed.mixture.sizes == (3, 2)
    assert mixed.mixture.seed == mixed.seed == 4
    np.testing.assert_allclose(mixed.mixture.probabilities, np.sqrt([3, 2]) / np.sqrt([3, 2]).sum())
    one = Collator(collator().tasks[:1], pad_id=0)
    alone = train_loader(TaskExamples(examples.tokens[:1]), one, 2, seed=4, task_exponent=0.5).batch_sampler
    assert alone is not None
    assert list(alone) == list(LengthGroupedBatchSampler([5, 8, 6], 2, seed=4))
