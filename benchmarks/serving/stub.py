"""A server for the generator's self-test: answers at once, but stands still for a while at every so-manieth request.

    python -m benchmarks.serving.stub --port 0 --every 500 --stall 0.2

One thread, so a stall holds up everybody, as a garbage collection or a blocking call in an event loop does.
"""

from __future__ import annotations

import argparse
import asyncio
import time

ANSWER_BODY = b'{"label":"stub"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER_BODY), ANSWER_BODY)


class Stub(asyncio.Protocol):
    """Answers requests whose body is declared by Content-Length."""

    num_requests = 0

    def __init__(self, every: int, stall_seconds: float) -> None:
        """Stall at every `every`-th request of all connections; 0 never."""
        self._every = every
        self._stall_seconds = stall_seconds
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._received += data
        while (end := self._request_end()) is not None and self._transport is not None:
            self._received = self._received[end:]
            Stub.num_requests += 1
            if self._every and Stub.num_requests % self._every == 0:
                time.sleep(self._stall_seconds)
            self._transport.write(ANSWER)

    def _request_end(self) -> int | None:
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank:
            return None
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        return len(head) + len(blank) + length if len(rest) >= length else None


async def serve(port: int, every: int, stall_seconds: float) -> None:
    """Serve until killed; prints the port."""
    server = await asyncio.get_running_loop().create_server(lambda: Stub(every, stall_seconds), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--stall", type=float, default=0.2, help="seconds")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.every, arguments.stall))
