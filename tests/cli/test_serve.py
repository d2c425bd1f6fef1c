"""`compressor serve`: the chain ends in an answered HTTP request."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen


def test_a_served_bundle_answers_like_predict_and_stops_cleanly(
    toy_run: Any, script: Path, compressor: Callable[..., Any]
) -> None:
    """Catches a server that answers with another model, other labels or other numbers than were measured."""
    bundle = toy_run.run / "bundle"
    command = [str(script), "serve", str(bundle), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        chosen, address = process.stderr.readline(), process.stderr.readline()
        url = address.rpartition(" ")[2].strip()
        body = json.dumps({"text": ["late order", "money refund card"]}).encode()
        request = Request(f"{url}/v1/predict", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as response:
            served = json.load(response)
        with urlopen(f"{url}/readyz", timeout=30) as response:
            assert response.status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert f"model.{manifest['default_artifact']}.onnx" in chosen
    assert served["model"] == {
        "name": "toy", "version": manifest["version"], "precision": manifest["default_artifact"],
    }  # fmt: skip
    lines = compressor("predict", bundle, "late order", "money refund card", "--json").out.splitlines()
    assert served["answers"] == [json.loads(line)["answers"] for line in lines]


def test_a_taken_port_is_one_line(toy_run: Any, script: Path, compressor: Callable[..., Any]) -> None:
    """Catches a traceback for the most common mistake of starting a server twice."""
    command = [str(script), "serve", str(toy_run.run / "bundle"), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        process.stderr.readline()
        port = process.stderr.readline().strip().rpartition(":")[2]
        done = compressor("serve", toy_run.run / "bundle", "--port", port)
    finally:
        process.kill()
        process.communicate()
    assert done.code == 2
    assert f":{port}" in done.error
