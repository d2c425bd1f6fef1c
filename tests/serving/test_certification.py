"""What makes a machine another one than the one of the measurements."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from serving import certification
from serving.certification import certify_here, doubts
from serving.claims import Certification

THERE = Certification(
    cpu_model="Some CPU",
    cpu_features=("avx2", "avx512_vnni"),
    int8_kernels="avx512 vnni",
    saturates_int8=False,
    runtime="onnxruntime 1.31.0",
)


def test_the_same_machine_raises_no_doubt() -> None:
    """A warning at every start is soon read by nobody."""
    assert doubts(THERE, THERE) == []
    assert doubts(certify_here(), certify_here()) == []


def test_another_cpu_of_the_same_class_raises_no_doubt() -> None:
    """Its name decides nothing, and more instruction sets than were certified take none away."""
    better = msgspec.structs.replace(THERE, cpu_model="Another", cpu_features=(*THERE.cpu_features, "avx512_fp16"))
    assert doubts(THERE, better) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cpu_features": ("avx2",)}, "this CPU lacks avx512_vnni"),
        ({"cpu_features": ()}, "this CPU lacks avx2, avx512_vnni"),
        ({"int8_kernels": "amx"}, "certified with avx512 vnni int8 kernels and runs on amx here"),
        ({"saturates_int8": True}, "8-bit products do not saturate there and saturate here"),
        ({"saturates_int8": None}, "8-bit products do not saturate there and were not tried here"),
        ({"runtime": "onnxruntime 1.20.1"}, "certified with onnxruntime 1.31.0, and onnxruntime 1.20.1 is here"),
        ({"runtime": ""}, "and none is here"),
        ({"device": "cuda"}, "certified on cpu and runs on cuda"),
    ],
)
def test_each_difference_is_a_doubt_of_its_own(changes: dict[str, Any], expected: str) -> None:
    """Each of them can change int8 logits while every hash is right."""
    (found,) = doubts(THERE, msgspec.structs.replace(THERE, **changes))
    assert expected in found


@pytest.mark.parametrize("certified", [None, msgspec.structs.replace(THERE, cpu_features=())])
def test_what_is_not_known_is_a_doubt(certified: Certification | None) -> None:
    """A bundle made where nothing is known of the CPU must not pass for one made here."""
    assert "does not say" in doubts(certified, THERE)[0]


def test_this_machine_is_described_by_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class must follow from the instruction sets of this CPU, not be a default."""
    monkeypatch.setattr(certification, "cpu_features", lambda: ("asimd", "asimddp"))
    monkeypatch.setattr(certification, "cpu_model", lambda: "Some ARM")
    found = certify_here("cuda")
    assert (found.cpu_model, found.int8_kernels, found.device) == ("Some ARM", "arm dotprod", "cuda")
    assert found.runtime.startswith("onnxruntime")
