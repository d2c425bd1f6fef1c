"""What a GPU's lane does differently, on the CPU: bound inputs and outputs, and tokenising beside the lane."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.binding import BoundSession
from serving.bundle import Bundle
from serving.engine.contract import Answered, Work
from serving.engine.engine import LaneEngine
from serving.model import OnnxModel

TEXTS = ["refund", "thanks please", "broken broken refund please", "unheard " * 20]


def _bind(bundle: Bundle) -> None:
    model = bundle.model
    session: Any = model.session
    bundle.model = OnnxModel(BoundSession(session, "cpu"), model.encoder, model.tasks)


def _work(text: str) -> Work:
    return Work(((text,),), None, time.monotonic() + 30)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("tasks", [None, ("urgency",), ("topics", "intent")])
def test_bound_inputs_and_outputs_change_no_logit(
    bundle_folder: Path, batch_size: int, tasks: tuple[str, ...] | None
) -> None:
    """A buffer kept from another call, or outputs in another order, would answer one text with another's logits."""
    bundle = Bundle.load(bundle_folder, "fp32")
    expected = bundle.logits(TEXTS, tasks, batch_size)
    _bind(bundle)
    given = bundle.logits(TEXTS, tasks, batch_size)
    assert list(given) == list(expected)
    for task, rows in expected.items():
        np.testing.assert_array_equal(given[task], rows)


def test_texts_that_wait_are_tokenised_beside_the_lane(make: Callable[..., LaneEngine], trouble: Any) -> None:
    """A GPU that waits for the tokenizer is idle; and served must equal offline on this path too."""
    engine = make("fp32", lanes=1, tokenisers=2)
    bundle = engine.bundle
    expected = bundle.logits(TEXTS)
    _bind(bundle)
    names: dict[str, str] = {}
    encode, encoder = bundle.model.encoder.encode_checked, bundle.model.encoder

    def spy(text: tuple[str, ...]) -> Any:
        names[text[0]] = threading.current_thread().name
        return encode(text)

    encoder.encode_checked = spy  # type: ignore[method-assign]
    is_released = threading.Event()
    fault = trouble(bundle, lambda input_ids: is_released.wait(20) and None)

    async def scene() -> list[Answered]:
        while not engine._crew._idle:  # a text that comes before the lane sleeps is tokenised beside it, too
            await asyncio.sleep(0.005)
        asked = [asyncio.ensure_future(engine.answer(_work(TEXTS[0])))]
        while fault.num_calls == 0:
            await asyncio.sleep(0.005)
        asked += [asyncio.ensure_future(engine.answer(_work(text))) for text in TEXTS[1:]]
        while len(names) < len(TEXTS):
            await asyncio.sleep(0.005)
        is_released.set()
        return list(await asyncio.gather(*asked))

    for row, answered in enumerate(asyncio.run(asyncio.wait_for(scene(), 30))):
        np.testing.assert_allclose(answered.logits["intent"], expected["intent"][row : row + 1], atol=1e-6)
    assert names[TEXTS[0]].startswith("lane")
    assert all(names[text].startswith("tokeniser") for text in TEXTS[1:])


def test_a_text_that_cannot_be_tokenised_fails_alone_on_this_path_too(make: Callable[..., LaneEngine]) -> None:
    """An exception in a pool's thread is silent: the request would wait for its deadline."""
    engine = make("fp32", lanes=1, tokenisers=1)
    encode = engine.bundle.model.encoder.encode_checked

    def act(text: tuple[str, ...]) -> Any:
        if text[0] == "broken":
            raise RuntimeError("no tokens")
        return encode(text)

    engine.bundle.model.encoder.encode_checked = act  # type: ignore[method-assign]

    async def scene() -> list[Any]:
        works = [_work(text) for text in ("refund", "broken", "thanks")]
        return await asyncio.gather(*map(engine.answer, works), return_exceptions=True)

    kinds = [type(ending).__name__ for ending in asyncio.run(asyncio.wait_for(scene(), 30))]
    assert kinds == ["Answered", "LaneFailed", "Answered"]
