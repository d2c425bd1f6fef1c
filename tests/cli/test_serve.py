"""`compressor serve` and `compressor key`: the chain ends in an answered HTTP request."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest


def start(script: Path, *arguments: object) -> tuple[subprocess.Popen[str], list[str], str]:
    """A server process, what it printed until it was ready, and its address."""
    process = subprocess.Popen(
        [str(script), "serve", *map(str, arguments), "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    printed = []
    for line in process.stderr:
        printed.append(line)
        if found := re.search(r"listening on (http://\S+)", line):
            return process, printed, found[1]
    process.kill()
    process.communicate()
    raise AssertionError("".join(printed))


def stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM, and an end with 0."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def predict(url: str, texts: list[str], **headers: str) -> Any:
    """The answer of the server."""
    body = json.dumps({"text": texts}).encode()
    with urlopen(Request(f"{url}/v1/predict", body, {"content-type": "application/json", **headers})) as response:
        return json.load(response)


def test_a_served_bundle_answers_like_predict_and_stops_cleanly(
    toy_run: Any, script: Path, compressor: Callable[..., Any]
) -> None:
    """Catches a server that answers with another model, other labels or other numbers than were measured."""
    bundle = toy_run.run / "bundle"
    process, printed, url = start(script, bundle)
    try:
        served = predict(url, ["late order", "money refund card"])
        with urlopen(f"{url}/readyz", timeout=30) as response:
            assert response.status == 200
        stop(process)
    finally:
        process.kill()
        process.communicate()
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert f"model.{manifest['default_artifact']}.onnx" in printed[0]
    assert served["model"] == {
        "name": "toy", "version": manifest["version"], "precision": manifest["default_artifact"],
    }  # fmt: skip
    lines = compressor("predict", bundle, "late order", "money refund card", "--json").out.splitlines()
    assert served["answers"] == [json.loads(line)["answers"] for line in lines]


def test_calibration_writes_what_serve_then_reads(
    toy_run: Any, script: Path, compressor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a settings file that the server refuses, or whose lanes it does not take."""
    bundle, file = toy_run.run / "bundle", tmp_path / "serve.toml"
    monkeypatch.setattr("serving.operations.calibrate.SECONDS_PER_ROUND", 0.1)
    done = compressor("serve", bundle, "--calibrate", "--settings", file, "--set", "limits.texts=1")
    assert done.code == 0, done.err
    assert "<- chosen" in done.err
    process, printed, url = start(script, bundle, "--settings", file)
    try:
        assert "as the settings say" in printed[0]
        assert len(predict(url, ["late order"])["answers"]) == 1
        with pytest.raises(HTTPError, match="413") as refused:
            predict(url, ["late order"] * 2)
        refused.value.close()
        stop(process)
    finally:
        process.kill()
        process.communicate()


def test_a_key_of_a_name_that_is_there_changes_nothing(compressor: Callable[..., Any], tmp_path: Path) -> None:
    """A second line of a name makes the whole file unreadable: the next start of every server would fail."""
    file = tmp_path / "keys.txt"
    assert compressor("key", "alice", "--file", file).code == 0
    before = file.read_text()
    done = compressor("key", "alice", "--file", file)
    assert (done.code, done.out) == (2, "")
    assert "'alice'" in done.error
    assert file.read_text() == before


def test_a_stop_during_the_imports_is_a_clean_end(script: Path, tmp_path: Path) -> None:
    """An orchestrator that changes its mind in the first second would count a crash."""
    code = (
        "import builtins, os, signal, sys\n"
        "original = builtins.__import__\n"
        "def stopping(name, *rest):\n"
        "    if name == 'serving.operations.server':\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return original(name, *rest)\n"
        "builtins.__import__ = stopping\n"
        "from cli.main import run_app\n"
        f"sys.argv = ['compressor', 'serve', {str(tmp_path)!r}]\n"
        "run_app()\n"
    )
    done = subprocess.run([script.parent / "python", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_made_key_opens_the_server(
    toy_run: Any, script: Path, compressor: Callable[..., Any], tmp_path: Path
) -> None:
    """Catches a key command whose line the server reads as another key, or as none."""
    file = tmp_path / "keys.txt"
    first = compressor("key", "alice", "--file", file, "--rate", "1000").out.strip()
    second = compressor("key", "bob", "--file", file).out.strip()
    assert first not in file.read_text()
    process, _, url = start(script, toy_run.run / "bundle", "--set", f"keys_file={file}")
    try:
        for key in (first, second):
            assert predict(url, ["late order"], authorization=f"Bearer {key}")["answers"]
        with pytest.raises(HTTPError, match="401") as refused:
            predict(url, ["late order"], authorization=f"Bearer {first}x")
        refused.value.close()
        stop(process)
    finally:
        process.kill()
        process.communicate()
    assert compressor("key", "two words", "--file", file).code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "limits.txts=3"], "limits.texts"),
        (["--set", "port"], "NAME=VALUE"),
        (["--settings", "none.toml"], "none.toml"),
        (["--device", "tpu"], "tpu"),
        (["--precision", "int4"], "fp32"),
    ],
)
def test_a_wrong_setting_is_one_line(
    toy_run: Any, compressor: Callable[..., Any], arguments: list[str], message: str
) -> None:
    """Catches a traceback, or worse: a server that starts without the limit that was meant."""
    done = compressor("serve", toy_run.run / "bundle", "--port", "0", *arguments)
    assert done.code == 2
    assert message in done.error


def test_a_taken_port_is_one_line(toy_run: Any, script: Path, compressor: Callable[..., Any]) -> None:
    """Catches a traceback for the most common mistake of starting a server twice."""
    process, _, url = start(script, toy_run.run / "bundle")
    try:
        port = url.rpartition(":")[2]
        done = compressor("serve", toy_run.run / "bundle", "--port", port)
    finally:
        process.kill()
        process.communicate()
    assert done.code == 2
    assert f":{port}" in done.error
