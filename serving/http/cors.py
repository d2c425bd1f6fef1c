"""Which web origins may call the server: none, unless the settings name them."""

from __future__ import annotations

from collections.abc import Collection

from serving.http.errors import Header
from serving.http.request import Reply, Request

_EXPOSED = (
    b"server-timing, x-model-name, x-model-version, x-model-precision, x-request-id, retry-after, "
    b"inference-header-content-length"
)
_ALLOWED_HEADERS = (
    b"authorization, content-type, x-api-key, x-request-id, x-request-timeout-ms, inference-header-content-length"
)
_PREFLIGHT_SECONDS = b"600"


class Origins:
    """The origins of the settings; `*` stands for all."""

    def __init__(self, origins: Collection[str]) -> None:
        """Allow these, and no other."""
        self._allowed = frozenset(origin.encode() for origin in origins)
        self.is_closed = not self._allowed

    def headers(self, request: Request) -> tuple[Header, ...]:
        """What to add to an answer, so that the page that asked may read it."""
        origin = request.headers.get(b"origin")
        if origin is None or not self._allows(origin):
            return ((b"vary", b"origin"),)
        return (
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        )

    def preflight(self, request: Request, methods: bytes) -> Reply | None:
        """The answer of a browser's question before the request; None where it is no allowed one."""
        origin = request.headers.get(b"origin")
        if origin is None or b"access-control-request-method" not in request.headers or not self._allows(origin):
            return None
        headers = (
            (b"access-control-allow-methods", methods),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", _PREFLIGHT_SECONDS),
        )
        return Reply(204, b"", headers=headers)

    def _allows(self, origin: bytes) -> bool:
        return origin in self._allowed or b"*" in self._allowed
