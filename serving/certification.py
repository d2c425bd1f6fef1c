"""What a bundle was certified on, against what is here: where they differ, more of its golden examples are replayed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from serving.claims import Certification
from serving.host import cpu_features, cpu_model
from serving.kernels import int8_kernels, measured_saturation

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_SATURATION = {True: "saturate", False: "do not saturate", None: "were not tried"}


def certify_here(device: str = "cpu") -> Certification:
    """What measurements made now, in this process, are certified on."""
    features = cpu_features()
    return Certification(
        cpu_model=cpu_model(),
        cpu_features=features,
        int8_kernels=int8_kernels(features),
        saturates_int8=measured_saturation(),
        runtime=runtime_version(),
        device=device,
    )


def runtime_version() -> str:
    """Name and version of the installed ONNX Runtime; empty without one."""
    for name in RUNTIMES:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return ""


def doubts(certified: Certification | None, here: Certification) -> list[str]:
    """Why logits measured there may not be repeated here, each as a clause; none where both are alike.

    What is not known counts as a doubt.
    """
    if certified is None:
        return ["the bundle does not say what it was certified on"]
    return list(_differences(certified, here))


def _differences(certified: Certification, here: Certification) -> Iterator[str]:
    missing = [feature for feature in certified.cpu_features if feature not in here.cpu_features]
    if missing:
        yield f"this CPU lacks {', '.join(missing)}"
    if not certified.cpu_features:
        yield "the bundle does not say which instruction sets it was certified on"
    if certified.int8_kernels != here.int8_kernels:
        yield f"it was certified with {certified.int8_kernels} int8 kernels and runs on {here.int8_kernels} here"
    if certified.saturates_int8 != here.saturates_int8:
        there, now = _SATURATION[certified.saturates_int8], _SATURATION[here.saturates_int8]
        yield f"8-bit products {there} there and {now} here"
    if certified.runtime != here.runtime:
        yield f"it was certified with {certified.runtime or 'an unknown runtime'}, and {here.runtime or 'none'} is here"
    if certified.device != here.device:
        yield f"it was certified on {certified.device} and runs on {here.device}"
