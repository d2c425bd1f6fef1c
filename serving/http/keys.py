"""API keys from a file: only their hashes are stored, each may have a rate in tokens per second.

One key per line: its name, the SHA-256 of the key in hexadecimal, and optionally its rate; `#` begins a comment.
The file is read again when it changes. `compressor key NAME --file FILE` makes a key and appends its line.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from serving.engine.contract import Expired, TooLate
from serving.errors import UserError
from serving.http.errors import HttpError, retry_after
from serving.http.request import Request

BURST_SECONDS = 10.0
"""A key that was idle may spend so many seconds' worth of its rate at once."""
CHECK_SECONDS = 1.0
"""How often the file is looked at."""
CHARACTERS_PER_TOKEN = 4
"""For the estimate that is held back until the true number of tokens is known."""

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
logger = logging.getLogger(__name__)


class Key:
    """One caller: a hash to know it by, and a bucket of tokens that fills at its rate."""

    def __init__(self, name: str, digest: bytes, rate: float | None, now: float) -> None:
        """A key with a full bucket.

        Args:
            name: shown in logs.
            digest: SHA-256 of the key.
            rate: tokens per second, above 0; None for no limit.
            now: monotonic seconds.
        """
        self.name = name
        self.digest = digest
        self.rate = rate
        self._balance = (rate or 0.0) * BURST_SECONDS
        self._since = now

    def take(self, tokens: int, now: float) -> float:
        """Take tokens if the bucket is not empty; it may go below zero, and is then waited for.

        Returns:
            Seconds until it is worth trying again; 0 when they were taken.
        """
        if self.rate is None:
            return 0.0
        self._balance = min(self.rate * BURST_SECONDS, self._balance + (now - self._since) * self.rate)
        self._since = now
        if self._balance <= 0.0:
            return max(1e-3, -self._balance / self.rate)
        self._balance -= tokens
        return 0.0

    def give_back(self, tokens: int) -> None:
        """Return what was taken too much; a negative number takes what was taken too little."""
        self._balance += tokens


class KeyRing:
    """All keys; without a file every caller is let in."""

    def __init__(
        self, file: Path | None, default_rate: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the keys.

        Args:
            file: of keys; None to ask for none.
            default_rate: tokens per second of a key whose line names no rate; None for no limit.
            clock: monotonic seconds.

        Raises:
            UserError: the file cannot be read, or a line of it is wrong.
        """
        self._file = file
        self._default_rate = default_rate
        self._clock = clock
        self._keys: Sequence[Key] = ()
        self._stamp: tuple[int, ...] = ()
        self._looked = clock()
        if file is not None:
            self._stamp = _stamp(file)
            self._keys = read_keys(file, default_rate, clock())

    def find(self, request: Request) -> Key | None:
        """The key of a request, None where none is asked for; HttpError 401 for a missing or unknown one."""
        if self._file is None:
            return None
        self._look_again(self._file)
        given = _given_key(request)
        digest = hashlib.sha256(given).digest()
        found = None
        for key in self._keys:  # all of them: the time tells nothing about which one is like it
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None or not given:
            message = "send a key that this server knows: authorization: Bearer KEY, or x-api-key: KEY"
            raise HttpError(401, "unauthorised", message, [(b"www-authenticate", b"Bearer")])
        return found

    @contextlib.contextmanager
    def spend(self, request: Request, texts: Sequence[Sequence[str]]) -> Iterator[None]:
        """Let `request.key` pay for an answer: an estimate before it, the rest after it.

        What was refused or failed costs nothing. What was let in costs the estimate also when the caller leaves or its
        deadline comes first: the model may have run for it.

        Raises:
            HttpError: 429 when the key has spent its rate.
        """
        key = request.key
        if key is None or key.rate is None:
            yield
            return
        estimate = sum(sum(map(len, text)) // CHARACTERS_PER_TOKEN + 2 for text in texts)
        if seconds := key.take(estimate, self._clock()):
            message = f"this key may use {key.rate:g} tokens per second; try again in {seconds:.3g} s"
            raise HttpError(429, "rate_limited", message, [retry_after(seconds)])
        try:
            yield
        except BaseException as end:
            may_have_run = isinstance(end, asyncio.CancelledError | Expired) and not isinstance(end, TooLate)
            if not may_have_run:
                key.give_back(estimate)
            raise
        key.give_back(estimate - request.tokens)

    def _look_again(self, file: Path) -> None:
        now = self._clock()
        if now - self._looked < CHECK_SECONDS:
            return
        self._looked = now
        try:
            if (stamp := _stamp(file)) == self._stamp:
                return
            self._stamp = stamp
            fresh = read_keys(file, self._default_rate, now)
        except UserError as error:
            logger.error("the old API keys stay in force: %s", error)
            return
        known = {(key.name, key.digest, key.rate): key for key in self._keys}
        self._keys = [known.get((key.name, key.digest, key.rate), key) for key in fresh]
        logger.warning("read %d API key(s) again from %s", len(self._keys), file)


def read_keys(file: Path, default_rate: float | None, now: float) -> list[Key]:
    """The keys of a file; UserError names the line that is wrong."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the keys file '{file}' cannot be read: {error}. Give another with keys_file.") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, start=1):
        if fields := line.partition("#")[0].split():
            key = _parse(fields, default_rate, now, f"line {number} of the keys file '{file}'")
            if key.name in keys:
                raise UserError(f"line {number} of the keys file '{file}' names '{key.name}' a second time. Rename it.")
            keys[key.name] = key
    return list(keys.values())


def make_key(name: str, rate: float | None = None) -> tuple[str, str]:
    """A new key, and the line of the keys file that lets it in; UserError for a name that cannot stand there."""
    if not name or name.split() != [name] or "#" in name:
        raise UserError(f"the key's name {name!r} must be one word without '#'. Choose another.")
    key = secrets.token_urlsafe(32)
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}"
    return key, line if rate is None else f"{line} {rate:g}"


def _parse(fields: list[str], default_rate: float | None, now: float, where: str) -> Key:
    if len(fields) not in (2, 3) or not _SHA256.fullmatch(fields[1]):
        raise UserError(f"{where} is no key. Write: NAME SHA256-OF-THE-KEY [TOKENS-PER-SECOND]")
    rate = default_rate
    if len(fields) == 3:
        try:
            rate = float(fields[2])
        except ValueError:
            rate = 0.0
        if not 0.0 < rate < float("inf"):
            raise UserError(f"{where} has the rate '{fields[2]}'. Write tokens per second, above 0.")
    return Key(fields[0], bytes.fromhex(fields[1]), rate, now)


def _given_key(request: Request) -> bytes:
    if (key := request.headers.get(b"x-api-key")) is not None:
        return key.strip()
    scheme, _, key = request.headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError as error:
        raise UserError(f"the keys file '{file}' cannot be read: {error}. Give another with keys_file.") from error
    return found.st_mtime_ns, found.st_size, found.st_ino
