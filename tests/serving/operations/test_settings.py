"""Settings: where they come from, what is refused, and that a written file says what was meant."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from serving.errors import UserError
from serving.operations.settings import (
    Limits,
    ServerSettings,
    describe_settings,
    load_settings,
    parse_change,
    read_calibration,
    write_settings,
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("serve.toml", "port = 9000\nthreads = 2\n[limits]\ntexts = 7\n"),
        ("serve.json", '{"port": 9000, "threads": 2, "limits": {"texts": 7}}'),
    ],
)
def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(
    tmp_path: Path, name: str, content: str
) -> None:
    """A file that silently wins over the command line serves on the port of yesterday."""
    (tmp_path / name).write_text(content)
    given = load_settings(tmp_path / name, {"threads": 4, "limits.characters": "12"})
    assert given == ServerSettings(port=9000, threads=4, limits=Limits(texts=7, characters=12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prot": 1}, r"no setting 'prot'\. Choose among: host, port.*Did you mean port\?"),
        ({"limits.txts": 1}, r"no setting 'limits\.txts'.*Did you mean limits\.texts\?"),
        ({"limit.texts": 1}, r"no setting 'limit'.*Did you mean limits\?"),
        ({"port.number": 1}, r"port: Expected `int`"),
        ({"port": 70_000}, "<= 65535"),
        ({"port": -1}, ">= 0"),
        ({"lanes": 0}, r"lanes: .*>= 1"),
        ({"lanes": 10**9}, r"lanes: .*<= 1024"),
        ({"threads": 1025}, r"threads: .*<= 1024"),
        ({"threads": "two"}, r"threads: "),
        ({"grace_seconds": math.inf}, r"grace_seconds: .*<= 86400"),
        ({"drain_seconds": math.inf}, r"drain_seconds: .*<= 86400"),
        ({"drain_seconds": math.nan}, r"drain_seconds: "),
        ({"stall_seconds": math.inf}, r"stall_seconds: .*<= 86400"),
        ({"limits.idle_seconds": math.inf}, r"limits\.idle_seconds: .*<= 86400"),
        ({"rate_tokens_per_second": math.inf}, r"rate_tokens_per_second: "),
        ({"device": "tpu"}, "'tpu'"),
        ({"limits.header_seconds": 0}, r"limits\.header_seconds: .*> 0"),
        ({"default_deadline_ms": 70_000}, "above max_deadline_ms"),
        ({"admin_port": 9}, "admin_token_file"),
        ({"admin_port": 8000, "admin_token_file": "token"}, "must differ"),
        ({"admin_token_file": "token"}, "admin_token_file has no effect without admin_port"),
        ({"rate_tokens_per_second": 5.0}, "rate_tokens_per_second has no effect without keys_file"),
        ({"log_texts": True}, "log_texts has no effect without access_log"),
        ({"keys_file": 3}, "expected a path, got 3"),
        ({"cors_origins": "*"}, "cors_origins: "),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_one_line_that_names_it(change: dict[str, Any], message: str) -> None:
    """A misspelt limit that is ignored leaves the server without that limit."""
    with pytest.raises(UserError, match=message) as refused:
        load_settings(None, change)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"port = ", "not TOML"),
        ("a.json", b"{", "not JSON"),
        ("b.json", b"[]", "no settings"),
        ("b.toml", b"\xff", "not TOML"),
        ("c.toml", b"port = 'x'\nlimits = 3", "c.toml"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """A traceback in the log of a container that restarts for ever helps nobody."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        load_settings(tmp_path / name)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Serving on the defaults instead would look like success."""
    with pytest.raises(UserError, match=r"none\.toml.*No such file"):
        load_settings(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["out.toml", "out.json"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    """A calibration whose file means something else configures every later server wrongly."""
    settings = ServerSettings(
        host='::1"\\é',
        lanes=3,
        admin_port=0,
        admin_token_file=Path("a b"),
        cors_origins=("https://a.example",),
        grace_seconds=1.5,
        page=False,
        limits=Limits(json_depth=3),
    )
    figures = {"cells": [{"lanes": 3, "p99_ms": 1.25}, {"lanes": 1, "p99_ms": 2.0}], "machine": {"cpu_quota": None}}
    write_settings(tmp_path / name, settings, figures)
    assert load_settings(tmp_path / name) == settings
    read = read_calibration(tmp_path / name)
    assert read is not None
    assert read["cells"] == figures["cells"]
    write_settings(tmp_path / name, ServerSettings())
    assert read_calibration(tmp_path / name) is None


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Minutes of measuring must not end in a traceback."""
    with pytest.raises(UserError, match=r"none.*cannot be written"):
        write_settings(tmp_path / "none" / "serve.toml", ServerSettings())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port=1", ("port", 1)),
        ("host=::", ("host", "::")),
        ('cors_origins=["https://a"]', ("cors_origins", ["https://a"])),
        ("keys_file=a=b", ("keys_file", "a=b")),
        ("page=false", ("page", False)),
    ],
)
def test_changes_of_the_command_line_are_read(text: str, expected: tuple[str, Any]) -> None:
    """`page=false` read as a non-empty string would switch the page on."""
    assert parse_change(text) == expected


@pytest.mark.parametrize("text", ["port", "=1", " =1"])
def test_a_change_without_name_or_value_is_refused(text: str) -> None:
    """An ignored word on the command line is a setting that was meant and is not there."""
    with pytest.raises(UserError, match="NAME=VALUE"):
        parse_change(text)


def test_every_setting_is_described_with_its_true_default() -> None:
    """The documentation's table and `--help` are made from these rows."""
    rows = describe_settings()
    assert all(len(row.meaning) > 10 for row in rows)
    made = load_settings(None, {row.name: json.loads(row.default) for row in rows})
    assert made == ServerSettings()
    assert {row.name for row in rows} >= {"host", "limits.texts", "drain_seconds"}
