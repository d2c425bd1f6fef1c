"""What layers in fp32 cost: bytes of the file and time of a text, against the same graph without them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from export.quantise.probe import Probe
from export.statistics import paired_ratio
from serving.exclusion import Exclusion
from serving.session import create_session

NUM_TEXTS = 16
NUM_ROUNDS = 15


def price_of(exclusion: Exclusion, whole: onnx.ModelProto, chosen: Path, probe: Probe) -> Exclusion:
    """The exclusion with its price.

    Args:
        exclusion: what was left in fp32.
        whole: the graph in which every layer is quantised.
        chosen: the file of the graph with the exclusion.
        probe: whose texts are timed, one by one, both graphs in turn.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.onnx"
        onnx.save_model(whole, str(path))
        paid = chosen.stat().st_size - path.stat().st_size
        ratio = _time_ratio(create_session(chosen), create_session(path), probe)
    return msgspec.structs.replace(exclusion, bytes_paid=paid, latency_ratio=ratio)


def _time_ratio(chosen: Any, whole: Any, probe: Probe) -> tuple[float, float, float]:
    """Seconds of `chosen` over seconds of `whole`, each round both; a first round warms up and is not counted."""
    encodings = [encoding for found in probe.encodings.values() for encoding in found][:NUM_TEXTS]
    batches = [probe.encoder.batch([encoding]) for encoding in encodings]
    seconds = np.zeros((2, NUM_ROUNDS + 1))
    for number in range(NUM_ROUNDS + 1):
        for place, session in enumerate((chosen, whole)):
            started = time.perf_counter()
            for batch in batches:
                session.run(None, batch)
            seconds[place, number] = time.perf_counter() - started
    return paired_ratio(seconds[0, 1:], seconds[1, 1:])
