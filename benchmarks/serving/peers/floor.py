"""The least that a server of this kind can cost: no framework, no limits, no deadlines, no queue but the thread's own.

uvloop hands what a client sent to httptools, one thread tokenises and runs it, and the answer is written as it is.
What this needs above the bare loop is the price of TCP, of parsing and of two thread hops in Python. It is no
server for anyone: it believes its clients, holds them for ever, and loses them when it ends.

    python -m benchmarks.serving.peers.floor PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from queue import SimpleQueue
from threading import Thread
from typing import Any

import httptools
import uvloop

from benchmarks.serving.peers.model import PeerModel

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client, one request at a time."""

    def __init__(self, waiting: SimpleQueue[tuple[Connection, str]]) -> None:
        """Texts go to `waiting`."""
        self.loop = asyncio.get_running_loop()
        self._waiting = waiting
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def connection_made(self, transport: Any) -> None:
        """Remember where to write."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse; what follows comes by the parser's calls."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Of a request, or a part of it."""
        self._body += body

    def on_message_complete(self) -> None:
        """Hand a text over; a request without one asks whether the server is ready."""
        body, self._body = self._body, b""
        if body:
            self._waiting.put((self, json.loads(body)["text"]))
        else:
            self.write({"status": "ready"})

    def write(self, content: dict[str, Any]) -> None:
        """Answer."""
        body = json.dumps(content, separators=(",", ":")).encode()
        self._transport.write(HEAD % len(body) + body)


def serve(model: PeerModel, waiting: SimpleQueue[tuple[Connection, str]]) -> None:
    """What the one thread does: text after text."""
    while True:
        connection, text = waiting.get()
        connection.loop.call_soon_threadsafe(connection.write, model.predict(text))


async def main(port: int) -> None:
    """Serve until the process is stopped."""
    waiting: SimpleQueue[tuple[Connection, str]] = SimpleQueue()
    Thread(target=serve, args=(PeerModel.from_environment(), waiting), daemon=True).start()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(waiting), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
