"""The model behind LitServe, with and without its batching.

Settings: one inference worker and one HTTP process per CPU (its documentation's advice and default), `fast_queue`
(ZeroMQ, its advice above 100 requests a second), no access log. With batching: up to 8 texts, waiting for 2 ms.

    python -m benchmarks.serving.peers.litserve_app PORT MAX_BATCH_SIZE
"""

# No deferred annotations: LitServe reads the type of a request from them at import.
import os
import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from tokenizers import Encoding

from benchmarks.serving.peers.model import WORKERS_VARIABLE, PeerModel

BATCH_TIMEOUT_SECONDS = 0.002


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """Tokenise, run, answer; LitServe hands lists to `predict` when it batches."""

    def setup(self, device: str) -> None:
        """Load the model once per worker."""
        self.model = PeerModel.from_environment()

    def decode_request(self, request: Request) -> Encoding:
        """Tokenise; the annotation tells LitServe to read a JSON body, which is what arrives here."""
        return self.model.encode(request["text"])

    def batch(self, inputs: list[Encoding]) -> list[Encoding]:
        """Padding happens in `predict`."""
        return inputs

    def predict(self, x: Any) -> NDArray[np.float32]:
        """Logits: [labels] of one Encoding, [texts, labels] of a list of them."""
        return self.model.run(x) if isinstance(x, list) else self.model.run([x])[0]

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """One row per text."""
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
        """What goes back."""
        return self.model.answer(output)


def main(port: int, max_batch_size: int) -> None:
    """Serve until killed."""
    timeout = BATCH_TIMEOUT_SECONDS if max_batch_size > 1 else 0.0
    server = litserve.LitServer(
        Classifier(max_batch_size=max_batch_size, batch_timeout=timeout),
        accelerator="cpu",
        workers_per_device=int(os.environ.get(WORKERS_VARIABLE, "1")),
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=port,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
