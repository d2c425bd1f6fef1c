"""Listening sockets, and closing them without losing a connection that the kernel has accepted for us."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
from collections.abc import Sequence

from serving.errors import UserError

BACKLOG = 2048
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # the classic BPF program "return 0"


def listen(host: str, port: int, names: str = "--host and --port") -> socket.socket:
    """A listening socket; UserError, with the settings' names, when the address is taken or not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(f"cannot listen on {host}:{port}: {reason}. Choose others with {names}.") from error


def url_of(listener: socket.socket) -> str:
    """The address of a listening socket as a URL."""
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


async def refuse_new(listeners: Sequence[socket.socket]) -> None:
    """Let no further handshake begin, then give the event loop time to accept those that have ended.

    Closing a listening socket resets the connections that wait in its queue, although their clients have sent
    requests. A filter that drops every packet stops the queue from growing; established connections have
    sockets of their own and are not touched. Where there is no such filter the gap stays, some microseconds wide.
    """
    for listener in listeners:
        _drop_packets(listener)
    for _ in range(3):
        await asyncio.sleep(0.005)


def _drop_packets(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(_DROP_ALL)
    try:
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
    except OSError:
        return
