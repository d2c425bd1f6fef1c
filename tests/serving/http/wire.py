"""Requests as bytes on the wire, answers read from a socket, and a server that hostile clients may call."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

from serving.operations.settings import Limits

BODY = b'{"text": "refund"}'
QUICK = Limits(header_seconds=0.4, idle_seconds=0.8, connections=20, body_bytes=100_000)
PATIENT = Limits(header_seconds=30.0, connections=20, body_bytes=100_000)
"""For requests that come in pieces: no busy machine holds a piece up for so long."""


def post(body: bytes = BODY, path: str = "/v1/predict", *head: str, length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *head]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_all(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    while chunk := client.recv(65_536):
        received += chunk
    return received


def read_answers(client: socket.socket, number: int) -> list[tuple[int, Any]]:
    """Status and JSON of the next answers on a connection."""
    received = b""
    answers: list[tuple[int, Any]] = []
    while len(answers) < number:
        head, found, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if found and length and len(rest) >= int(length[1]):
            answers.append((int(head.split()[1]), json.loads(rest[: int(length[1])])))
            received = rest[int(length[1]) :]
            continue
        chunk = client.recv(65_536)
        assert chunk, f"closed after {received!r}"
        received += chunk
    assert received == b""
    return answers


def is_reset_or_closed(client: socket.socket) -> bool:
    try:
        return client.recv(65_536) == b""
    except ConnectionError:
        return True


def wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 8
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)
