"""Asks a running server with NVIDIA's own client, binary tensors and JSON; run by an interpreter that has it."""

from __future__ import annotations

import sys

import numpy as np
import tritonclient.http as triton  # type: ignore[import-not-found]
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]

TEXTS = ["refund", "bröken thanks", "please"]


def main(address: str) -> None:
    """Exit with an error where the answers differ or the protocol breaks."""
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert client.is_model_ready("toy", "1")
    assert not client.is_model_ready("toy", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    outputs = [output["name"] for output in client.get_model_metadata("toy")["outputs"]]
    results = [
        ask(client, [], is_binary=True),
        ask(client, outputs, is_binary=True),
        ask(client, outputs, is_binary=False),
    ]
    for name in outputs:
        first, *others = (list(map(as_text, result.as_numpy(name).ravel())) for result in results)
        assert len(results[0].as_numpy(name)) == len(TEXTS), name
        assert others == [first, first], name
    assert "one model" in refusal(client)
    sys.stdout.write(",".join(as_text(label) for label in results[0].as_numpy("intent.label")))


def refusal(client: triton.InferenceServerClient) -> str:
    """What the client says when it asks for another model."""
    try:
        client.infer("other", [make_input(True)])
    except InferenceServerException as error:
        return str(error.message())
    raise AssertionError("another model's name was answered")


def ask(client: triton.InferenceServerClient, outputs: list[str], *, is_binary: bool) -> triton.InferResult:
    """One inference; without outputs all are asked for."""
    wanted = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in outputs] or None
    result = client.infer("toy", [make_input(is_binary)], outputs=wanted, request_id="r1", model_version="1")
    assert result.get_response()["id"] == "r1"
    return result


def make_input(is_binary: bool) -> triton.InferInput:
    """The texts as the client packs them."""
    made = triton.InferInput("text", [len(TEXTS)], "BYTES")
    made.set_data_from_numpy(np.array(TEXTS, dtype=object), binary_data=is_binary)
    return made


def as_text(value: object) -> str:
    """JSON strings and binary bytes alike."""
    return value.decode() if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    main(sys.argv[1])
