"""API keys: who is let in, how much one may use, and what happens when the file changes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.engine.contract import Expired, LaneFailed, NotReady, Overloaded, TooLate
from serving.engine.dummy import DummyEngine
from serving.errors import UserError
from serving.http.errors import HttpError
from serving.http.keys import BURST_SECONDS, KeyRing, make_key
from serving.http.request import Request
from tests.serving.http.conftest import Caller


class Clock:
    """Seconds that pass when told to."""

    now = 100.0

    def __call__(self) -> float:
        """Monotonic seconds."""
        return self.now


def request_with(key: str | None) -> Request:
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]

    async def receive() -> dict[str, object]:
        raise AssertionError("nobody reads the body")

    return Request({"path": "/", "headers": headers}, receive, 0.0)


def write(file: Path, *lines: str, stamp: int = 0) -> Path:
    file.write_text("\n".join(lines) + "\n")
    if stamp:
        os.utime(file, (stamp, stamp))
    return file


def line(name: str, key: str, rate: str = "") -> str:
    return f"{name} {hashlib.sha256(key.encode()).hexdigest()} {rate}"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "keys", "# callers", "", line("web", "open sesame"), line("batch", "slow", "10  # a comment")
    )


def test_an_empty_key_is_no_key_even_where_its_hash_is_listed(make_call: Callable[..., Caller], tmp_path: Path) -> None:
    """A line made from an unset shell variable would let every caller in who sends no key."""
    call = make_call(DummyEngine(), keys_file=write(tmp_path / "keys", line("nobody", "")))
    for headers in ({}, {"x_api_key": ""}, {"authorization": "Bearer "}):
        assert call.post("/v1/predict", {"text": "refund"}, **headers).status == 401


def test_only_known_keys_are_answered(make_call: Callable[..., Caller], keys_file: Path) -> None:
    """A route that forgets to ask gives the model away."""
    call = make_call(DummyEngine(), keys_file=keys_file)
    text = {"text": "refund"}
    assert call.post("/v1/predict", text, authorization="Bearer open sesame").status == 200
    assert call.post("/v1/predict", text, authorization="bearer open sesame").status == 200
    assert call.post("/v1/predict", text, x_api_key="open sesame").status == 200
    assert call.post("/v1/predict", text, authorization="Bearer  open sesame ").status == 200
    assert call.post("/v1/predict", text, x_api_key=" open sesame ").status == 200
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x_api_key": ""}, {"authorization": "Basic open sesame"}):
        refused = call.post("/v1/predict", text, **headers)
        assert (refused.status, refused.json["error"]["code"]) == (401, "unauthorised")
        assert refused.headers["www-authenticate"] == "Bearer"
    for method, path in (
        ("POST", "/predict"),
        ("GET", "/v1/info"),
        ("GET", "/v2"),
        ("GET", "/v2/models/dummy"),
        ("POST", "/v2/models/dummy/infer"),
    ):
        assert call(method, path).status == 401, path


def test_probes_metrics_and_the_page_need_no_key(make_call: Callable[..., Caller], keys_file: Path) -> None:
    """An orchestrator has no key; without an answer it restarts the server forever."""
    call = make_call(DummyEngine(), keys_file=keys_file)
    paths = ["/livez", "/readyz", "/startupz", "/metrics", "/openapi.json", "/", "/v2/health/live", "/v2/health/ready"]
    assert [call.get(path).status for path in paths] == [200] * len(paths)


def test_a_key_is_refused_before_the_body_is_read(make_call: Callable[..., Caller], keys_file: Path) -> None:
    """Anybody could else make the server read and parse a megabyte per request."""
    call = make_call(DummyEngine(), keys_file=keys_file)
    assert call("POST", "/v1/predict", headers={"content-length": "999999999"}, chunks=[]).status == 401


def test_a_key_without_tokens_left_waits_for_them(keys_file: Path) -> None:
    """Retry-After must be when it works again: earlier, clients hammer; never, the key is dead."""
    clock = Clock()
    ring = KeyRing(keys_file, clock=clock)
    request = request_with("slow")
    request.key = ring.find(request)
    with ring.spend(request, [("word",)]):
        request.tokens = int(10 * BURST_SECONDS) + 50
    with pytest.raises(HttpError) as refused, ring.spend(request, [("word",)]):
        pass
    assert (refused.value.status, refused.value.code) == (429, "rate_limited")
    assert dict(refused.value.headers) == {b"retry-after": b"5"}
    clock.now += 5.1
    with ring.spend(request, [("word",)]):
        request.tokens = 1


def spend(ring: KeyRing, key: str, tokens: int) -> None:
    """One answered request of so many tokens."""
    request = request_with(key)
    request.key = ring.find(request)
    with ring.spend(request, [("word",)]):
        request.tokens = tokens


def test_a_key_that_was_idle_for_long_has_no_more_than_its_burst(keys_file: Path) -> None:
    """A night of saved tokens, spent in the morning at once, is the load that the rate was to prevent."""
    clock = Clock()
    ring = KeyRing(keys_file, clock=clock)
    clock.now += 100 * BURST_SECONDS
    spend(ring, "slow", int(10 * BURST_SECONDS))
    with pytest.raises(HttpError, match="10 tokens per second"):
        spend(ring, "slow", 1)


def test_a_spent_key_waits_even_where_it_owes_nothing(keys_file: Path) -> None:
    """Exactly nothing left would else be endless credit: nothing to wait for, and nothing is taken."""
    ring = KeyRing(keys_file, clock=Clock())
    spend(ring, "slow", int(10 * BURST_SECONDS))
    with pytest.raises(HttpError) as refused:
        spend(ring, "slow", 1)
    assert dict(refused.value.headers) == {b"retry-after": b"1"}


def test_time_fills_the_bucket_once(keys_file: Path) -> None:
    """Counted again at each request, a caller who asks often enough has no rate."""
    clock = Clock()
    ring = KeyRing(keys_file, clock=clock)
    spend(ring, "slow", int(10 * BURST_SECONDS))
    clock.now += 1.0
    spend(ring, "slow", 10)
    with pytest.raises(HttpError):
        spend(ring, "slow", 1)


def test_parallel_requests_cannot_overtake_the_count(keys_file: Path) -> None:
    """Paid only afterwards, a thousand requests at once would all find a full bucket."""
    ring = KeyRing(keys_file, clock=Clock())
    first, second = request_with("slow"), request_with("slow")
    first.key = second.key = ring.find(first)
    refused = pytest.raises(HttpError, match="10 tokens per second")
    with ring.spend(first, [("x" * 4000,)]), refused, ring.spend(second, [("x",)]):
        pass


def test_what_was_not_answered_is_not_paid(make_call: Callable[..., Caller], keys_file: Path) -> None:
    """A failing model would else lock its callers out."""
    engine = DummyEngine()
    engine.failure = lambda number, work: LaneFailed("nan")
    call = make_call(engine, keys_file=keys_file)
    statuses = {call.post("/v1/predict", {"text": "x" * 300}, x_api_key="slow").status for _ in range(20)}
    assert statuses == {500}


@pytest.mark.parametrize(
    ("end", "is_paid"),
    [
        (asyncio.CancelledError(), True),
        (Expired("too late"), True),
        (TooLate("when it came"), False),
        (MemoryError(), False),
        (Overloaded(1.0), False),
        (NotReady("draining"), False),
        (LaneFailed("nan"), False),
        (UserError("no such task"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_the_model_may_have_run_for_is_paid_and_nothing_else(
    keys_file: Path, end: BaseException, is_paid: bool
) -> None:
    """Lists sent and left at once would be free work; and who comes again as told would find an empty bucket."""
    ring = KeyRing(keys_file, clock=Clock())
    request = request_with("slow")
    request.key = ring.find(request)
    with pytest.raises(type(end)), ring.spend(request, [("x" * 4000,)]):
        raise end
    with pytest.raises(HttpError, match="10 tokens per second") if is_paid else contextlib.nullcontext():
        spend(ring, "slow", 1)


def test_a_rate_answers_429_with_a_time(make_call: Callable[..., Caller], keys_file: Path) -> None:
    """Through the whole application, with the true number of tokens."""
    call = make_call(DummyEngine(), keys_file=keys_file)
    replies = [call.post("/v1/predict", {"text": "word " * 60}, x_api_key="slow") for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 3


def test_a_default_rate_holds_for_lines_without_one(keys_file: Path) -> None:
    """A key without a rate is then not without limit."""
    ring = KeyRing(keys_file, default_rate=3.0, clock=Clock())
    found = ring.find(request_with("open sesame"))
    assert found is not None
    assert found.rate == 3.0


def test_a_changed_file_is_in_force_without_a_restart(tmp_path: Path) -> None:
    """A key that leaked must be dead at once; others keep what they have spent."""
    clock = Clock()
    file = write(tmp_path / "keys", line("web", "old"), line("batch", "slow", "10"), stamp=1000)
    ring = KeyRing(file, clock=clock)
    batch = ring.find(request_with("slow"))
    write(file, line("web", "new"), line("batch", "slow", "10"), stamp=2000)
    clock.now += 2
    assert ring.find(request_with("new")) is not None
    with pytest.raises(HttpError):
        ring.find(request_with("old"))
    assert ring.find(request_with("slow")) is batch


def test_a_changed_rate_is_in_force_without_a_restart(tmp_path: Path) -> None:
    """A caller who is being slowed down would keep the old rate, and the log would say that the file was read."""
    clock = Clock()
    file = write(tmp_path / "keys", line("web", "x", "10"), line("batch", "y"), stamp=1000)
    ring = KeyRing(file, default_rate=3.0, clock=clock)
    write(file, line("web", "x", "20"), line("batch", "y"), line("new", "z"), stamp=2000)
    clock.now += 2
    found = [ring.find(request_with(key)) for key in ("x", "y", "z")]
    assert [key and key.rate for key in found] == [20.0, 3.0, 3.0]


@pytest.mark.parametrize("replaced", [False, True], ids=["another size", "another file"])
def test_a_change_is_seen_even_with_the_old_time(tmp_path: Path, replaced: bool) -> None:
    """A deployment that copies the times with the files would leave a leaked key alive."""
    clock = Clock()
    file = write(tmp_path / "keys", line("web", "old"), stamp=1000)
    ring = KeyRing(file, clock=clock)
    if replaced:
        write(tmp_path / "other", line("web", "new"), stamp=1000).replace(file)
    else:
        write(file, line("web", "new"), "# rotated", stamp=1000)
    clock.now += 2
    assert ring.find(request_with("new")) is not None


def test_the_file_is_looked_at_once_a_second_and_read_once_a_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand requests per second would else write a thousand lines per second about one mistake."""
    clock = Clock()
    file = write(tmp_path / "keys", line("web", "old"), stamp=1000)
    ring = KeyRing(file, clock=clock)
    write(file, line("web", "old"), line("batch", "slow"), stamp=2000)
    with caplog.at_level(logging.WARNING, "serving.http.keys"):
        for _ in range(5):
            clock.now += 2
            ring.find(request_with("old"))
        assert len(caplog.records) == 1
        file.unlink()
        for _ in range(3):
            clock.now += 2
            for _ in range(10):
                ring.find(request_with("old"))
    assert len(caplog.records) == 1 + 3


def test_a_hash_is_known_in_capitals_too(tmp_path: Path) -> None:
    """Some tools print it so."""
    written = f"web {hashlib.sha256(b'open sesame').hexdigest().upper()}"
    assert KeyRing(write(tmp_path / "keys", written)).find(request_with("open sesame")) is not None


@pytest.mark.parametrize("breakage", ["a line", "gone", "bytes"])
def test_a_bad_file_keeps_the_old_keys_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, breakage: str
) -> None:
    """A typing error in an editor must neither open the server nor lock everybody out."""
    clock = Clock()
    file = write(tmp_path / "keys", line("web", "old"), stamp=1000)
    ring = KeyRing(file, clock=clock)
    if breakage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"web nothing\n" if breakage == "a line" else b"\xff\xfe")
    clock.now += 2
    with caplog.at_level(logging.ERROR, "serving.http.keys"):
        assert ring.find(request_with("old")) is not None
    assert "the old API keys stay in force" in caplog.text


@pytest.mark.parametrize(
    "content",
    ["other", "other 1234", "other " + "g" * 64, "a b c d"]
    + [f"other {'a' * 64} {rate}" for rate in ("-1", "0", "nan", "inf", "ten")],
)
def test_a_bad_file_at_the_start_names_its_line(tmp_path: Path, content: str) -> None:
    """A line that is skipped in silence is a caller who is locked out, or one without a rate."""
    with pytest.raises(UserError, match=r"line 2 .*keys"):
        KeyRing(write(tmp_path / "keys", line("web", "x"), content))


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    """The log could not tell them apart."""
    with pytest.raises(UserError, match="a second time"):
        KeyRing(write(tmp_path / "keys", line("web", "x"), line("web", "y")))


def test_a_made_key_fits_its_line(tmp_path: Path) -> None:
    """The line is pasted into the file as it is."""
    key, made = make_key("web", 5.0)
    found = KeyRing(write(tmp_path / "keys", made)).find(request_with(key))
    assert found is not None
    assert (found.name, found.rate) == ("web", 5.0)
    assert key not in made
    for name in ("two words", "", " web", "web#1"):
        with pytest.raises(UserError, match="one word"):
            make_key(name)
