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
ACCEPT_TURNS = 3
"""Of the event loop, for what has ended its handshake at the last moment."""
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
_FLAGS, _SYN, _SYN_ACK = 13, 0x02, 0x12  # offset of a TCP header's flags, and two values of them
_WITHOUT_NEW = (  # classic BPF; a filter of a TCP socket sees packets from the TCP header on
    (0x30, 0, 0, _FLAGS),  # load the flags
    (0x54, 0, 0, _SYN_ACK),  # and with SYN | ACK
    (0x15, 0, 1, _SYN),  # SYN alone?
    (0x06, 0, 0, 0),  # yes: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # no: keep
)


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


async def refuse_new(listeners: Sequence[socket.socket], seconds: float) -> None:
    """Let no further handshake begin, then give those that have begun time to end, and to be accepted.

    Closing a listening socket resets the connections that wait in its queue, and those whose handshake is under way,
    although their clients take them for open and have sent requests. A filter that drops the packets which ask for a
    connection stops both from growing. Where there is no such filter the gap stays, as wide as a handshake is long.

    Args:
        listeners: to close afterwards; they are accepted from meanwhile.
        seconds: how long handshakes may take.
    """
    for listener in listeners:
        _drop_new(listener)
    await asyncio.sleep(seconds)
    for _ in range(ACCEPT_TURNS):
        await asyncio.sleep(0.005)


def _drop_new(listener: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _WITHOUT_NEW))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_WITHOUT_NEW), ctypes.addressof(program))
        )
    except OSError:
        return
