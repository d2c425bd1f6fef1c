"""The page at `/`: one file without any external request, held to that by its content security policy."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from serving.http.errors import Header
from serving.http.request import Reply, Request

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class TryPage:
    """The handler of `GET /`."""

    def __init__(self) -> None:
        """Read the page once; its policy allows exactly its own script and style."""
        html = files("serving.http").joinpath("page.html").read_text(encoding="utf-8")
        self._body = html.encode()
        self._headers = _headers(html)

    async def show(self, request: Request) -> Reply:
        """The page."""
        return Reply(200, self._body, b"text/html; charset=utf-8", headers=self._headers)


def _headers(html: str) -> tuple[Header, ...]:
    hashes = {kind: _hash(content) for kind, content in _INLINE.findall(html)}
    policy = (
        f"default-src 'none'; script-src '{hashes['script']}'; style-src '{hashes['style']}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        (b"content-security-policy", policy.encode()),
        (b"cache-control", b"no-cache"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
