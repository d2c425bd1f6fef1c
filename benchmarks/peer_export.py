"""What optimum-onnx makes of a checkpoint, and how it reads our bundle; run in that package's own environment.

    peer_export.py CHECKPOINT FOLDER [--bundle BUNDLE]

Writes graphs and `peer.json` into FOLDER. A form that the peer does not support is noted and left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import (
    AutoOptimizationConfig,
    AutoQuantizationConfig,
    ORTModelForSequenceClassification,
    ORTOptimizer,
    ORTQuantizer,
    quantization,
)
from transformers import AutoTokenizer

PACKAGES = ("optimum-onnx", "optimum", "transformers", "onnxruntime", "torch")


def export(checkpoint: Path, folder: Path) -> dict[str, str]:
    """Write its fp32 and int8 graphs; returns per file how it was made, or why it is not there."""
    main_export(str(checkpoint), output=folder / "export", task="text-classification", do_validation=False)
    shutil.copyfile(folder / "export" / "model.onnx", folder / "plain.fp32.onnx")
    notes = {"plain.fp32.onnx": "as shipped"}
    makers: dict[str, Callable[[], str]] = {
        "o2.fp32.onnx": lambda: _optimise(folder),
        "plain.int8.onnx": lambda: _quantise(folder, "export", "model.onnx", "plain.int8.onnx"),
        "o2.int8.onnx": lambda: _quantise(folder, "o2", "model_optimized.onnx", "o2.int8.onnx"),
    }
    for name, make in makers.items():
        try:
            notes[name] = make()
        except (NotImplementedError, KeyError, ValueError, RuntimeError, OSError) as error:
            notes[name] = f"not made: {' '.join(str(error).split())[:200] or type(error).__name__}"
    return notes


def _optimise(folder: Path) -> str:
    optimiser = ORTOptimizer.from_pretrained(ORTModelForSequenceClassification.from_pretrained(folder / "export"))
    optimiser.optimize(save_dir=folder / "o2", optimization_config=AutoOptimizationConfig.O2())
    shutil.copyfile(folder / "o2" / "model_optimized.onnx", folder / "o2.fp32.onnx")
    return "as shipped"


def _quantise(folder: Path, source: str, file_name: str, target: str) -> str:
    """Dynamic int8 as shipped, or, where that fails on a fused graph, with the one option it lacks."""
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    work, made = folder / f"{source}_int8", file_name.replace(".onnx", "_quantized.onnx")
    note = "as shipped"
    try:
        _run_quantiser(folder / source, file_name, work, config)
    except RuntimeError as error:
        with _default_tensor_type():
            _run_quantiser(folder / source, file_name, work, config)
        note = f"fails as shipped ({str(error).split('.')[0]}); made with DefaultTensorType lent to it"
    shutil.copyfile(work / made, folder / target)
    return note


def _run_quantiser(source: Path, file_name: str, target: Path, config: Any) -> None:
    ORTQuantizer.from_pretrained(source, file_name=file_name).quantize(save_dir=target, quantization_config=config)


@contextmanager
def _default_tensor_type() -> Iterator[None]:
    original = quantization.ONNXQuantizer

    def with_option(*args: Any, extra_options: dict[str, Any], **kwargs: Any) -> Any:
        lent = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        return original(*args, extra_options=extra_options | lent, **kwargs)

    quantization.ONNXQuantizer = with_option
    try:
        yield
    finally:
        quantization.ONNXQuantizer = original


def read_bundle(bundle: Path) -> dict[str, Any]:
    """Answer a bundle's golden texts with the peer's tokenizer and model classes.

    Returns:
        `texts`; `same_ids`, how many of them got the recorded ids; `artifacts`, per precision the largest logit
        difference from the recorded ones, or the error.
    """
    golden = json.loads((bundle / "golden.json").read_text(encoding="utf-8"))
    inputs = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["inputs"]
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    encoded = [
        tokenizer(*text, truncation=True, max_length=inputs["max_length"], return_tensors="pt")
        for text in golden["texts"]
    ]
    same = [row["input_ids"][0].tolist() == list(ids) for row, ids in zip(encoded, golden["input_ids"], strict=True)]
    found = {name: _largest(bundle, name, encoded, tasks) for name, tasks in golden["artifacts"].items()}
    return {"texts": len(same), "same_ids": sum(same), "artifacts": found}


def _largest(bundle: Path, precision: str, encoded: list[Any], tasks: dict[str, Any]) -> float | str:
    ((_, recorded),) = tasks.items()
    try:
        model = ORTModelForSequenceClassification.from_pretrained(bundle, file_name=f"model.{precision}.onnx")
        with torch.no_grad():
            given = [model(**{k: v for k, v in row.items() if k in model.input_names}).logits[0] for row in encoded]
    except (ValueError, RuntimeError, OSError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return float(np.abs(np.stack([row.numpy() for row in given]) - np.asarray(recorded)).max())


def main() -> None:
    """Export, read, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path, help="one of ours, of the same checkpoint")
    arguments = parser.parse_args()
    found = {
        "notes": export(arguments.checkpoint, arguments.folder),
        "versions": {name: version(name) for name in PACKAGES},
        "bundle": read_bundle(arguments.bundle) if arguments.bundle else None,
    }
    (arguments.folder / "peer.json").write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
