"""What stands in an answer whoever gives it: its headers, and the reply to a request that failed or was cancelled."""

from __future__ import annotations

from serving.http.errors import RESTART_SECONDS, Form, Header, HttpError, explain, render, retry_after
from serving.http.exchange import CLOSE
from serving.http.logs import log_failure
from serving.http.metrics import CLIENT_GONE
from serving.http.request import CLIENT_LEFT, REQUEST_TIMEOUT, ClientGone, Reply


def headers_of(reply: Reply, request_id: bytes) -> list[Header]:
    """All headers of a reply but those of the server."""
    about_body = (
        ()
        if reply.status == 204
        else (
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(reply.body)),
        )
    )
    return [*about_body, (b"x-request-id", request_id), *reply.headers]


def failed(error: Exception, form: Form, template: str, request_id: bytes) -> Reply:
    """The reply to a request that ended with an exception; what is our fault is logged.

    Args:
        error: the exception.
        form: in whose words it is told.
        template: of the route.
        request_id: for the log.
    """
    if isinstance(error, ClientGone):
        return Reply(CLIENT_GONE, b"", code=CLIENT_LEFT)
    told = explain(error)
    if told.status == 500:
        log_failure(error, template, request_id, with_traceback=told.code == "internal_error")
    return _told(told, form)


def cancelled(reason: str | None, is_sending: bool, form: Form) -> Reply:
    """The last word on a request that the server's protocol, or the server's end, has cancelled."""
    if reason == CLIENT_LEFT or is_sending:
        return Reply(CLIENT_GONE, b"", code=CLIENT_LEFT)
    if reason == REQUEST_TIMEOUT:
        return _told(HttpError(408, reason, "the request did not arrive in time", [CLOSE]), form)
    return _told(HttpError(503, "not_ready", "the server is stopping", [retry_after(RESTART_SECONDS)]), form)


def _told(error: HttpError, form: Form) -> Reply:
    status, body = render(error, form)
    return Reply(status, body, headers=error.headers, code=error.code)
