"""The model behind BentoML: a service with one worker per CPU and a synchronous API.

python -m bentoml serve benchmarks.serving.peers.bentoml_app:Classifier --port PORT
"""

# No deferred annotations: BentoML reads the types of the API at import.
import os
from typing import Any

import bentoml

from benchmarks.serving.peers.model import WORKERS_VARIABLE, PeerModel


@bentoml.service(
    workers=int(os.environ.get(WORKERS_VARIABLE, "1")),
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"sample_rate": 0.0},
)
class Classifier:
    """One text, one call of the model."""

    def __init__(self) -> None:
        """Load the model once per worker."""
        self.model = PeerModel.from_environment()

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, text: str) -> dict[str, Any]:
        """Tokenise, run, answer."""
        return self.model.predict(text)
