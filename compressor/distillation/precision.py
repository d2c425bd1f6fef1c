"""Threads, dtype and device of a training: decided once, with the reason written down."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import psutil
import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader

from compressor.progress import announce
from compressor.recipe import TrainingSettings
from export.runners import limit_threads
from serving.errors import UserError
from serving.host import cpu_features

_BF16_FEATURES = {"avx512_bf16", "amx_bf16"}
_CALIBRATION_STEPS = 4
_BUSY_PERCENT = 30.0
_WATCH_SECONDS = 0.3


def decide_training(model: nn.Module, loader: DataLoader[Any], settings: TrainingSettings) -> dict[str, Any]:
    """Choose threads, device and dtype for a training on this machine.

    Args:
        model: is not changed.
        loader: its first batch serves the calibration; its order is not disturbed.
        settings: `auto` leaves the choice to this function.

    Returns:
        `threads`, `device` (a torch device type), `dtype` (fp32 or bf16), `reason` and, where both dtypes
        were timed, `fp32_seconds` and `bf16_seconds` per step.
    """
    device = find_device(settings.device)
    threads = settings.cpu_threads
    if device == "cpu" and threads > 1:
        _warn_of_other_work(threads)
    decision: dict[str, Any] = {"threads": threads, "device": device}
    if settings.dtype != "auto":
        return {**decision, "dtype": settings.dtype, "reason": "set in the recipe"}
    if device == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported()
        return {**decision, "dtype": "bf16" if has_bf16 else "fp32", "reason": f"bf16 supported: {has_bf16}"}
    if device != "cpu" or not _BF16_FEATURES & set(cpu_features()):
        return {**decision, "dtype": "fp32", "reason": "no bf16 instructions on this device"}
    with limit_threads(threads):
        seconds = _calibrate(model, loader)
    dtype = "bf16" if seconds["bf16"] < seconds["fp32"] else "fp32"
    return {
        **decision,
        "dtype": dtype,
        "reason": f"{dtype} was faster in a calibration of {_CALIBRATION_STEPS} steps",
        "fp32_seconds": seconds["fp32"],
        "bf16_seconds": seconds["bf16"],
    }


def _warn_of_other_work(threads: int) -> None:
    """Torch's threads wait for each other actively: beside other work a step can take ten times as long.

    This process sleeps while the CPUs are watched, so what is seen is the work of others.
    """
    busy = psutil.cpu_percent(interval=_WATCH_SECONDS)
    if busy > _BUSY_PERCENT:
        announce(
            f"  warning: other work keeps this machine's CPUs {busy:.0f}% busy, which slows training on {threads} "
            "threads far more than its share. Run it alone, set training.threads: 1, or set GOMP_SPINCOUNT=2000 "
            "in the environment."
        )


def find_device(wanted: str) -> str:
    """The torch device type that a recipe's `device` means here; UserError when this machine has no such device."""
    found = PartialState().device.type
    if wanted in ("auto", found, "cpu"):
        return found if wanted == "auto" else wanted
    raise UserError(
        f"training.device is '{wanted}', but this machine offers '{found}'. "
        "Set it to auto or cpu, or run where that device is."
    )


def _calibrate(model: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    """Fastest step per dtype on copies of the model, the two interleaved; random states are restored."""
    batch = next(iter(loader))
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids", "rows") if key in batch}
    best = {"fp32": float("inf"), "bf16": float("inf")}
    trial = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):
        for _ in range(_CALIBRATION_STEPS):
            for dtype in best:
                best[dtype] = min(best[dtype], _timed_step(trial, inputs, dtype))
    return best


def _timed_step(model: nn.Module, inputs: Mapping[str, Any], dtype: str) -> float:
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
        logits = model(**inputs)
    sum(value.float().square().sum() for value in logits.values()).backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - started
