"""Structured logs: one JSON object per line on stderr, with the request's id; never a text unless it is asked for."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, TextIO

import msgspec

from serving.http.request import Reply, Request

ACCESS = logging.getLogger("serving.access")
FAILURES = logging.getLogger("serving.failures")


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, the record's own fields, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=repr).decode()


def configure_logs(access_log: bool = False, stream: TextIO | None = None) -> None:
    """Send the process's logs to stderr as JSON lines; for the serving process, once.

    Args:
        access_log: also one line per request.
        stream: instead of stderr.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines())
    for name in ("serving", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    ACCESS.setLevel(logging.INFO if access_log else logging.WARNING)


def log_access(request: Request, route: str, request_id: bytes, reply: Reply, seconds: float) -> None:
    """One line for one request; its texts only where the settings asked for them."""
    fields: dict[str, Any] = {
        "request_id": request_id.decode(),
        "route": route,
        "status": reply.status,
        "milliseconds": round(seconds * 1e3, 3),
        "texts": request.texts,
        "tokens": request.tokens,
    }
    if reply.code is not None:
        fields["code"] = reply.code
    if request.key is not None:
        fields["key"] = request.key.name
    if request.log_texts is not None:
        fields["text"] = request.log_texts
    ACCESS.info("request", extra={"fields": fields})


def log_failure(error: Exception, route: str, request_id: bytes, *, with_traceback: bool) -> None:
    """One line for a request that failed by our fault."""
    FAILURES.error(
        "%s: %s",
        type(error).__name__,
        error,
        exc_info=error if with_traceback else None,
        extra={"fields": {"request_id": request_id.decode(), "route": route}},
    )
