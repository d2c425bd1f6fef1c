"""The ASGI application: one dictionary look-up from path and method to a handler, and one place where answers leave.

It starts no thread and knows no server; the engine's life is its owner's. Four things pass between it and the server's
protocol class (`serving.http.protocol_limits`) through `scope["state"]`: until when a body is waited for, why a request
was cancelled, when it came, where that was a while ago, and how it began, where the fast path may learn from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from serving.engine.contract import Engine
from serving.http.answering import Answering
from serving.http.cors import Origins
from serving.http.errors import Form, HttpError
from serving.http.fast_path import ROUTE, FastPath
from serving.http.inference_v2 import MODELS, InferenceV2Api
from serving.http.keys import KeyRing
from serving.http.logs import log_access
from serving.http.metrics import CLIENT_GONE, CONTENT_TYPE, Metrics
from serving.http.native import NativeApi
from serving.http.openapi import Description
from serving.http.page import TryPage
from serving.http.replies import cancelled, failed, headers_of
from serving.http.request import FIRST_BYTES, REASON, STARTED, Message, Receive, Reply, Request, RequestIds, Send
from serving.http.tei import TeiApi

if TYPE_CHECKING:
    from serving.operations.settings import ServerSettings

Handler = Callable[[Request], Awaitable[Reply]]


class Route(NamedTuple):
    """What answers a path."""

    template: str
    handlers: Mapping[str, Handler]
    form: Form = "native"
    needs_key: bool = False


_NOWHERE = Route("other", {})
"""Stands in metrics and logs for every path that is no route."""


def create_app(engine: Engine, settings: ServerSettings) -> Application:
    """The ASGI application over an engine, which may still be starting.

    Raises:
        UserError: the keys file cannot be read.
    """
    return Application(engine, settings)


class Application:
    """Every route of the server; see `create_app`.

    Attributes:
        fast_path: for the server's protocol class, which sends everything else here; None where settings leave it no
            request.
    """

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        """Build the table of routes; nothing is asked of the engine yet."""
        self._metrics = Metrics(engine)
        self._keys = KeyRing(settings.keys_file, settings.rate_tokens_per_second)
        self._origins = Origins(settings.cors_origins)
        self._ids = RequestIds()
        self._logs_access = settings.access_log
        answering = Answering(engine, settings, self._metrics, self._keys)
        self._v2 = InferenceV2Api(answering)
        native = NativeApi(answering)
        self.fast_path = (
            FastPath(native, answering, self._metrics, self._ids, settings) if FastPath.suits(settings) else None
        )
        self._routes = {route.template: route for route in self._all_routes(native, answering, settings)}

    def _all_routes(self, native: NativeApi, answering: Answering, settings: ServerSettings) -> list[Route]:
        tei, v2 = TeiApi(answering), self._v2
        description = Description(answering.engine, settings)
        routes = [
            Route(ROUTE, {"POST": native.predict}, needs_key=True),
            Route("/predict", {"POST": tei.predict}, "tei", needs_key=True),
            Route("/v1/info", {"GET": native.info}, needs_key=True),
            Route("/livez", {"GET": native.live}),
            Route("/readyz", {"GET": native.ready}),
            Route("/startupz", {"GET": native.started}),
            Route("/metrics", {"GET": self._show_metrics}),
            Route("/openapi.json", {"GET": description.show}),
            Route("/v2", {"GET": v2.server}, "v2", needs_key=True),
            Route("/v2/health/live", {"GET": v2.live}, "v2"),
            Route("/v2/health/ready", {"GET": v2.ready}, "v2"),
        ]
        if settings.page:
            routes.append(Route("/", {"GET": TryPage().show}))
        return routes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; lifespan events are agreed to."""
        if scope["type"] != "http":
            await _agree(scope, receive, send)
            return
        started = scope.setdefault("state", {}).get(STARTED) or time.monotonic()  # other servers may give no state
        request = Request(scope, receive, started)
        request_id = self._ids.choose(request.headers.get(b"x-request-id"))
        route = _NOWHERE
        is_sending = False
        try:
            try:
                route = self._find(request)
                reply = await self._handle(route, scope["method"], request)
            except Exception as error:  # noqa: BLE001 - the outermost place: every failure becomes an answer
                reply = failed(error, _form(route, request), route.template, request_id)
            is_sending = True
            await self._send(send, request, request_id, reply)
        except asyncio.CancelledError:
            reply = cancelled(scope["state"].get(REASON), is_sending, _form(route, request))
            await self._send(send, request, request_id, reply)
        self._finish(request, route.template, request_id, reply)
        if self.fast_path is not None and reply.status == 200 and route.template == ROUTE:
            self.fast_path.learn(scope["state"].pop(FIRST_BYTES, b""), scope["headers"], request)

    def refused(self, status: int, code: str) -> None:
        """Count what the server's protocol refused before it was a request (see `protocol_limits.protocol_class`)."""
        self._metrics.finished(_NOWHERE.template, status, 0.0, code)

    def _find(self, request: Request) -> Route:
        route = self._routes.get(request.path)
        if route is not None:
            return route
        if request.path.startswith(MODELS):
            found = self._v2.route(request.path)
            if found is not None:
                return Route(*found, "v2", needs_key=True)
        raise HttpError(404, "not_found", "no such path; GET /openapi.json lists them all")

    def _handle(self, route: Route, method: str, request: Request) -> Awaitable[Reply]:
        handler = route.handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            return self._without_handler(route, method, request)
        if route.needs_key:
            request.key = self._keys.find(request)
        return handler(request)

    async def _without_handler(self, route: Route, method: str, request: Request) -> Reply:
        allowed = ", ".join([*route.handlers, *(["HEAD"] if "GET" in route.handlers else [])])
        if method == "OPTIONS" and (reply := self._origins.preflight(request, allowed.encode())) is not None:
            return reply
        raise HttpError(405, "method_not_allowed", f"{route.template} takes {allowed}", [(b"allow", allowed.encode())])

    async def _send(self, send: Send, request: Request, request_id: bytes, reply: Reply) -> None:
        if reply.status == CLIENT_GONE:
            return
        headers = headers_of(reply, request_id)
        if not self._origins.is_closed:
            headers += self._origins.headers(request)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _finish(self, request: Request, template: str, request_id: bytes, reply: Reply) -> None:
        seconds = time.monotonic() - request.started
        self._metrics.finished(template, reply.status, seconds, reply.code)
        if self._logs_access:
            log_access(request, template, request_id, reply, seconds)

    async def _show_metrics(self, request: Request) -> Reply:
        return Reply(200, self._metrics.render(), CONTENT_TYPE)


def _form(route: Route, request: Request) -> Form:
    """In whose words an error is told; a path under /v2 that is no route is asked for by clients of that protocol."""
    return "v2" if request.path.startswith("/v2/") else route.form


async def _agree(scope: Message, receive: Receive, send: Send) -> None:
    """Take part in the lifespan protocol, with nothing to do; anything else is no business of ours."""
    if scope["type"] != "lifespan":
        raise RuntimeError(f"this application speaks HTTP, not {scope['type']}")
    while True:
        message = await receive()
        kind = message["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
