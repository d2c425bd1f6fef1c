"""A plain FastAPI application over ONNX Runtime, as people write it: a synchronous endpoint in the thread pool.

Settings: uvicorn with uvloop and httptools, no access log, one worker process per CPU, one thread per call.

    python -m benchmarks.serving.peers.fastapi_app PORT
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.peers.model import WORKERS_VARIABLE, PeerModel


class PredictRequest(BaseModel):
    """The body."""

    text: str


@asynccontextmanager
async def load(app: FastAPI) -> AsyncIterator[None]:
    """Load the model once per process."""
    app.state.model = PeerModel.from_environment()
    yield


app = FastAPI(lifespan=load)


@app.get("/ready")  # type: ignore[untyped-decorator]
def ready() -> dict[str, str]:
    """The model is loaded before the first request."""
    return {"status": "ready"}


@app.post("/predict")  # type: ignore[untyped-decorator]
def predict(request: PredictRequest) -> dict[str, Any]:
    """One text, one call of the model."""
    model: PeerModel = app.state.model
    return model.predict(request.text)


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.serving.peers.fastapi_app:app",
        port=int(sys.argv[1]),
        workers=int(os.environ.get(WORKERS_VARIABLE, "1")),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
