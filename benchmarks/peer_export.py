"""What optimum-onnx makes of a checkpoint; run by `peer_optimum.py` in that package's own environment."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import (
    AutoOptimizationConfig,
    AutoQuantizationConfig,
    ORTModelForSequenceClassification,
    ORTOptimizer,
    ORTQuantizer,
    quantization,
)


def export(checkpoint: Path, folder: Path) -> dict[str, str]:
    """Write its fp32 and int8 graphs; returns what had to be lent to it, per file."""
    main_export(str(checkpoint), output=folder / "export", task="text-classification", do_validation=False)
    optimiser = ORTOptimizer.from_pretrained(ORTModelForSequenceClassification.from_pretrained(folder / "export"))
    optimiser.optimize(save_dir=folder / "o2", optimization_config=AutoOptimizationConfig.O2())
    notes = {
        "plain.int8.onnx": _quantise(folder / "export", "model.onnx", folder / "plain_int8"),
        "o2.int8.onnx": _quantise(folder / "o2", "model_optimized.onnx", folder / "o2_int8"),
    }
    shutil.copyfile(folder / "export" / "model.onnx", folder / "plain.fp32.onnx")
    shutil.copyfile(folder / "o2" / "model_optimized.onnx", folder / "o2.fp32.onnx")
    shutil.copyfile(folder / "plain_int8" / "model_quantized.onnx", folder / "plain.int8.onnx")
    shutil.copyfile(folder / "o2_int8" / "model_optimized_quantized.onnx", folder / "o2.int8.onnx")
    return notes


def _quantise(source: Path, file_name: str, target: Path) -> str:
    """Dynamic int8 as shipped, or, where that fails on a fused graph, with the one option it lacks."""
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    try:
        ORTQuantizer.from_pretrained(source, file_name=file_name).quantize(save_dir=target, quantization_config=config)
    except RuntimeError as error:
        with _default_tensor_type():
            ORTQuantizer.from_pretrained(source, file_name=file_name).quantize(
                save_dir=target, quantization_config=config
            )
        return f"fails as shipped ({str(error).split('.')[0]}); made with DefaultTensorType lent to it"
    return "as shipped"


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    notes = export(arguments.checkpoint, arguments.folder)
    versions = {name: version(name) for name in ("optimum-onnx", "optimum", "transformers", "onnxruntime", "torch")}
    (arguments.folder / "peer.json").write_text(json.dumps({"notes": notes, "versions": versions}, indent=2))
