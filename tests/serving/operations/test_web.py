"""The end of a server: every request that was sent is answered."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from serving.engine.dummy import DummyEngine
from serving.errors import UserError
from serving.http.app import create_app
from serving.http.protocol_limits import protocol_class
from serving.operations import web
from serving.operations.listen import listen, refuse_new, url_of
from serving.operations.settings import Limits, ServerSettings
from serving.operations.web import WebServer, web_config
from tests.serving.http.wire import post

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK"


def app(delay: float) -> Callable[..., Coroutine[Any, Any, None]]:
    """An application that takes its time."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        await asyncio.sleep(delay)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return answer


class Client:
    """Counts requests that were answered, and sent requests that were not."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.lost: list[str] = []
        self.is_refused = False

    async def hammer(self, keep_alive: bool) -> None:
        """Request after request until nothing listens any more."""
        while not self.is_refused:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                self.is_refused = True
                return
            while await self.ask(reader, writer) and keep_alive:
                pass
            writer.close()

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may be used again."""
        try:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.lost.append(repr(error))
            return False
        self.answered += head.startswith(OK)
        return b"connection: close" not in head


def run(scenario: Callable[[WebServer, int], Coroutine[Any, Any, None]], delay: float = 0.0, **times: Any) -> None:
    """A scenario against a server in the same loop; the server must end."""

    async def main() -> None:
        with listen("127.0.0.1", 0) as listener:
            server = WebServer(web_config(app(delay), idle_seconds=30), **times)
            serving = asyncio.create_task(server.serve([listener]))
            await asyncio.wait_for(scenario(server, listener.getsockname()[1]), 30)
            server.stop()
            await asyncio.wait_for(serving, 10)

    with asyncio.Runner(loop_factory=web_config(app(0), idle_seconds=1).get_loop_factory()) as runner:
        runner.run(main())


@pytest.mark.parametrize("grace_seconds", [0.0, 0.2])
def test_no_sent_request_is_lost_at_the_end(grace_seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rollout would else show as a burst of reset connections; a stall here may last longer than a round trip."""
    monkeypatch.setattr(web, "LINGER_SECONDS", 20 * web.LINGER_SECONDS)
    clients: list[Client] = []
    tasks: list[asyncio.Task[None]] = []

    async def scenario(server: WebServer, port: int) -> None:
        clients.extend(Client(port) for _ in range(12))
        tasks.extend(asyncio.create_task(client.hammer(index % 2 == 0)) for index, client in enumerate(clients))
        while any(client.answered <= 5 for client in clients):
            await asyncio.sleep(0.005)
        server.stop()
        await asyncio.gather(*tasks)

    run(scenario, delay=0.003, grace_seconds=grace_seconds, drain_seconds=5.0)
    assert [client.lost for client in clients] == [[]] * 12


def test_answers_ask_for_closing_during_the_grace_and_readiness_ends_first() -> None:
    """A kept-alive connection would else be cut under the hands of a client that has just written to it."""
    seen: list[object] = []

    async def scenario(server: WebServer, port: int) -> None:
        client = Client(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        seen.append(await client.ask(reader, writer))
        server._on_stop = lambda: seen.append("not ready")
        server.stop()
        while "not ready" not in seen:
            await asyncio.sleep(0.005)
        seen.append(await client.ask(reader, writer))
        assert await reader.read() == b""
        writer.close()
        other, second = await asyncio.open_connection("127.0.0.1", port)
        seen.append(await client.ask(other, second))
        second.close()

    run(scenario, grace_seconds=3.0, drain_seconds=1.0)
    assert seen == [True, "not ready", False, False]


def test_a_slow_answer_is_waited_for_and_an_idle_connection_is_not() -> None:
    """Waiting for idle connections would make every stop last as long as `drain_seconds`."""
    events: list[str] = []

    async def main() -> None:
        with listen("127.0.0.1", 0) as listener:
            server = WebServer(web_config(app(0.8), idle_seconds=30), drain_seconds=20.0)
            serving = asyncio.create_task(server.serve([listener]))
            serving.add_done_callback(lambda _: events.append("server ended"))
            client = Client(listener.getsockname()[1])
            _, idle = await asyncio.open_connection("127.0.0.1", client.port)
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            asking = asyncio.create_task(client.ask(reader, writer))
            asking.add_done_callback(lambda _: events.append("answered"))
            await asyncio.sleep(0.1)
            server.stop()
            await asyncio.wait_for(asyncio.gather(serving, asking), 10)
            assert (client.answered, client.lost) == (1, [])
            writer.close()
            idle.close()

    asyncio.run(main())
    assert events == ["answered", "server ended"]


def test_what_outlasts_the_drain_is_given_up() -> None:
    """One stuck request must not hold a rollout for ever."""

    async def scenario(server: WebServer, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await asyncio.sleep(0.1)
        server.stop()
        await asyncio.sleep(0.1)
        writer.close()

    run(scenario, delay=60.0, drain_seconds=0.3)


def test_a_connection_in_the_queue_is_served_after_the_listener_refuses_new_ones() -> None:
    """Closing a listening socket resets what the kernel has accepted: those clients have sent requests already."""

    async def main() -> None:
        with listen("127.0.0.1", 0) as listener:
            address = listener.getsockname()
            with socket.create_connection(address) as early:
                await refuse_new([listener], 0.0)
                with socket.socket() as late:
                    late.settimeout(0.2)
                    with pytest.raises(TimeoutError):
                        late.connect(address)
                accepted, _ = listener.accept()
                with accepted:
                    accepted.sendall(b"hello")
                    assert early.recv(5) == b"hello"

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(socket, "TCP_DEFER_ACCEPT"), reason="handshakes cannot be held open here")
def test_a_request_whose_handshake_had_begun_is_answered() -> None:
    """Its client takes the connection for open: over a network all who connect within the last round trip."""

    async def main() -> None:
        with listen("127.0.0.1", 0) as listener:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)  # it is open when data comes
            server = WebServer(web_config(app(0.0), idle_seconds=30), drain_seconds=5.0)
            serving = asyncio.create_task(server.serve([listener]))
            await asyncio.sleep(0.1)
            client = Client(listener.getsockname()[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            server.stop()
            await asyncio.sleep(0.1)
            await client.ask(reader, writer)
            assert (client.answered, client.lost) == (1, [])
            writer.close()
            await asyncio.wait_for(serving, 10)

    asyncio.run(main())


def test_a_connection_of_the_last_moment_may_still_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was accepted before the listener closed: its client sends a request that nobody would answer."""
    monkeypatch.setattr("serving.operations.web.LINGER_SECONDS", 5.0)
    clients: list[Client] = []

    async def scenario(server: WebServer, port: int) -> None:
        clients.append(Client(port))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        server.stop()
        while any(listening.is_serving() for listening in server.servers):
            await asyncio.sleep(0.01)
        await clients[0].ask(reader, writer)
        writer.close()

    run(scenario, drain_seconds=5.0)
    assert (clients[0].answered, clients[0].lost) == (1, [])


class WithoutFilters(socket.socket):
    """A listener on a kernel that cannot drop its packets."""

    def setsockopt(self, *option: Any) -> None:
        """Refuse, as other systems do."""
        raise OSError(92, "Protocol not available")


def test_where_packets_cannot_be_dropped_the_end_goes_on() -> None:
    """On another system the drain would break off just before it answers what has begun."""
    with WithoutFilters() as listener:
        asyncio.run(refuse_new([listener], 0.0))


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="there is no IPv6 here")
def test_an_ipv6_address_is_listened_on_and_shown_as_a_url() -> None:
    """Without brackets the port reads as a part of the address, and what is printed opens nowhere."""
    with listen("::1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://[::1]:{port}"
        with socket.create_connection(("::1", port), timeout=5):
            pass


def test_an_address_that_is_not_to_be_had_is_the_users_to_mend() -> None:
    """Uvicorn itself would log it and exit with 1, as if it were our fault."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}: .*--port"):
            listen("127.0.0.1", port)
        with pytest.raises(UserError, match=f":{port}: Address already in use\\. Choose others with admin_port\\."):
            listen("127.0.0.1", port, "admin_port")
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:0: .*--host"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(("delay", "status", "num_given_up"), [(0.3, b"200", 0), (20.0, b"503", 1)])
def test_a_request_on_the_fast_path_is_answered_at_the_end(
    caplog: pytest.LogCaptureFixture, delay: float, status: bytes, num_given_up: int
) -> None:
    """It has no task that the end could wait for, or cancel."""
    engine = DummyEngine()
    ours = create_app(engine, ServerSettings())
    request = post()

    async def main() -> None:
        with listen("127.0.0.1", 0) as listener:
            http = protocol_class(Limits(), ours.refused, ours.fast_path)
            config = web_config(ours, idle_seconds=30, http=http)
            server = WebServer(config, grace_seconds=0.0, drain_seconds=2.0)
            serving = asyncio.create_task(server.serve([listener]))
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
            engine.delay_seconds = delay
            writer.write(request)
            while len(engine.received) < 2:
                await asyncio.sleep(0.01)
            server.stop()
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 " + status)
            writer.close()
            assert answer.count(b"HTTP/1.1") == answer.count(b"connection: close") == 1
            await serving

    with asyncio.Runner(loop_factory=web_config(ours, idle_seconds=1).get_loop_factory()) as runner:
        runner.run(asyncio.wait_for(main(), 30))
    assert ours.fast_path is not None
    assert ours.fast_path.metrics.fast_requests == 1
    assert engine.cancelled == num_given_up
    told = [record.getMessage() for record in caplog.records if "given up" in record.getMessage()]
    assert len(told) == num_given_up
    assert all("1 request(s)" in message for message in told)
