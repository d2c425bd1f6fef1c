"""Settings of the server: each declared, explained and bounded once, here.

Sources, later ones win: the defaults, a settings file (TOML or JSON), the command line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from serving.errors import UserError

CALIBRATION_KEY = "calibration"
"""A table of a settings file that tells where its lanes and threads come from; no setting."""

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Few = Annotated[int, Meta(ge=1, le=1024)]
DAY_SECONDS = 86_400.0
Seconds = Annotated[float, Meta(ge=0.0, le=DAY_SECONDS)]
Patience = Annotated[float, Meta(gt=0.0, le=DAY_SECONDS)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request and one client may cost; anything above is refused, before it is tokenised."""

    body_bytes: Annotated[Count, Meta(description="Largest body of a request, in bytes (413 above).")] = 1 << 20
    texts: Annotated[Count, Meta(description="Texts (or pairs) in one request (413 above).")] = 1024
    characters: Annotated[Count, Meta(description="Characters of one text or one part of a pair (413 above).")] = 32_768
    json_depth: Annotated[Count, Meta(description="Nested brackets in a body (400 above).")] = 16
    connections: Annotated[Count, Meta(description="Open connections; a further one is answered 429 and closed.")] = (
        2048
    )
    header_seconds: Annotated[
        Patience, Meta(description="From a request's first byte (or the connection's start) to its last byte.")
    ] = 10.0
    idle_seconds: Annotated[
        Patience, Meta(description="A kept-alive connection may be silent so long; above a load balancer's.")
    ] = 75.0


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of `compressor serve`."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port to listen on; 0 picks a free one.")] = 8000
    precision: Annotated[str | None, Meta(description="Artifact to serve; left out: the manifest's default.")] = None
    device: Annotated[Literal["cpu", "cuda"], Meta(description="Where the model runs.")] = "cpu"
    lanes: Annotated[
        Few | None, Meta(description="Calls of the model at the same time; left out: available CPUs / threads.")
    ] = None
    threads: Annotated[Few, Meta(description="CPU threads of one call.")] = 1
    queue_tokens: Annotated[Count, Meta(description="Tokens that may wait; above it requests are answered 429.")] = (
        65_536
    )
    stall_seconds: Annotated[
        Patience, Meta(description="A call of the model that lasts longer counts as hung: its lane is replaced.")
    ] = 10.0
    default_deadline_ms: Annotated[Count, Meta(description="Deadline of a request that names none.")] = 10_000
    max_deadline_ms: Annotated[Count, Meta(description="Longest deadline that a request may ask for.")] = 60_000
    limits: Annotated[Limits, Meta(description="What one request and one client may cost.")] = Limits()
    grace_seconds: Annotated[
        Seconds, Meta(description="After SIGTERM: time to serve on, not ready, until load balancers have noticed.")
    ] = 0.5
    drain_seconds: Annotated[
        Seconds, Meta(description="After the grace: longest wait for requests that have begun.")
    ] = 20.0
    admin_host: Annotated[str, Meta(min_length=1, description="Address of the admin port.")] = "127.0.0.1"
    admin_port: Annotated[Port | None, Meta(description="Port for hot swap and drain; left out: none.")] = None
    admin_token_file: Annotated[
        Path | None, Meta(description="File with the admin port's token; needed with admin_port.")
    ] = None
    keys_file: Annotated[
        Path | None, Meta(description="File with the hashes of API keys; left out: no key is asked for.")
    ] = None
    rate_tokens_per_second: Annotated[
        Annotated[float, Meta(gt=0.0, le=1e12)] | None,
        Meta(description="Tokens that a key may use, unless its line in keys_file names another rate; left out: any."),
    ] = None
    cors_origins: Annotated[
        tuple[str, ...], Meta(description="Web origins whose pages may call the server; none by default.")
    ] = ()
    fast_path: Annotated[
        bool, Meta(description="Answer small requests whose head is known without parsing that again.")
    ] = True
    access_log: Annotated[bool, Meta(description="One JSON line per request on stderr, without its text.")] = False
    log_texts: Annotated[bool, Meta(description="Put texts into the access log, which must be on.")] = False
    page: Annotated[bool, Meta(description="A page at / to try texts by hand.")] = True

    def __post_init__(self) -> None:
        """ValueError for settings that contradict each other."""
        if self.default_deadline_ms > self.max_deadline_ms:
            raise ValueError(
                f"default_deadline_ms is {self.default_deadline_ms}, above max_deadline_ms ({self.max_deadline_ms})"
            )
        if self.admin_port is not None and self.admin_token_file is None:
            raise ValueError("admin_port needs admin_token_file, a file with a token that callers must present")
        for name, needed in (
            ("admin_token_file", "admin_port"),
            ("rate_tokens_per_second", "keys_file"),
            ("log_texts", "access_log"),
        ):
            if _is_set(getattr(self, name)) and not _is_set(getattr(self, needed)):
                raise ValueError(f"{name} has no effect without {needed}; set that too, or leave {name} out")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError(f"port and admin_port are both {self.port}; they must differ")


def _is_set(value: object) -> bool:
    """Port 0 is."""
    return value is not None and value is not False


class SettingDescription(msgspec.Struct, frozen=True):
    """One row of the documentation: a setting's dotted name, its default as JSON and what it means."""

    name: str
    default: str
    meaning: str


def load_settings(file: Path | None = None, changes: Mapping[str, Any] | None = None) -> ServerSettings:
    """The settings of a server.

    Args:
        file: TOML or JSON (by its suffix); None for the defaults.
        changes: dotted names to values, which win over the file; a value may be text as a command line gives it.

    Raises:
        UserError: an unreadable file, an unknown setting or an impossible value.
    """
    values = {} if file is None else _read(file)
    values.pop(CALIBRATION_KEY, None)
    for name, value in (changes or {}).items():
        _put(values, name, value)
    source = f"settings file '{file}'" if file else "settings"
    try:
        return msgspec.convert(values, ServerSettings, strict=False, dec_hook=_path_from)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {_explain(str(error))}") from error


def read_calibration(file: Path) -> dict[str, Any] | None:
    """What a settings file says about the measurement behind it; None when it was written by hand."""
    found = _read(file).get(CALIBRATION_KEY)
    return found if isinstance(found, dict) else None


def parse_change(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` of the command line; the value is read as JSON where it is JSON, else as text.

    Raises:
        UserError: no equals sign, or no name before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"'{text}' is no setting. Write NAME=VALUE, e.g. limits.texts=64")
    try:
        return name.strip(), msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return name.strip(), value


def describe_settings() -> list[SettingDescription]:
    """All settings with their defaults and meanings, in the order of their declaration."""
    return [*_describe(ServerSettings, ServerSettings(), "")]


def _describe(kind: type[msgspec.Struct], defaults: msgspec.Struct, prefix: str) -> list[SettingDescription]:
    rows = []
    for field, own in zip(msgspec.inspect.type_info(kind).fields, msgspec.structs.fields(kind), strict=True):  # type: ignore[attr-defined]
        default = getattr(defaults, own.name)
        if isinstance(default, msgspec.Struct):
            rows += _describe(type(default), default, f"{prefix}{own.name}.")
            continue
        meaning = field.type.extra_json_schema["description"]
        rows.append(SettingDescription(prefix + own.name, msgspec.json.encode(default).decode(), meaning))
    return rows


def write_settings(file: Path, settings: ServerSettings, calibration: Mapping[str, Any] | None = None) -> None:
    """Write the settings that differ from the defaults, TOML or JSON by the file's suffix.

    Args:
        file: replaced when it is there; UserError when it cannot be written.
        settings: to be read again by `load_settings`.
        calibration: where lanes and threads come from, kept beside them.
    """
    values = _difference(_builtins(settings), _builtins(ServerSettings()))
    if calibration is not None:
        values[CALIBRATION_KEY] = dict(calibration)
    is_json = file.suffix == ".json"
    content = msgspec.json.format(msgspec.json.encode(values)).decode() + "\n" if is_json else _toml(values)
    try:
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"the settings file '{file}' cannot be written: {error.strerror}. Give another.") from error


def _path_from(kind: type[Path], value: object) -> Path:
    """The one type that msgspec does not know; ValueError when the value is no text."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a path, got {value!r}")
    return kind(value)


def _builtins(settings: ServerSettings) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    return found


def _difference(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults, tables entered."""
    changed = {}
    for name, value in values.items():
        default = defaults[name]
        if isinstance(value, dict) and isinstance(default, dict):
            value = _difference(value, default)
            default = {}
        if value != default:
            changed[name] = value
    return changed


def _toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """A table as TOML: numbers, strings, booleans and lists are written as in JSON, nulls are left out."""
    lines, tables = [], []
    for name, value in table.items():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            tables.append(f"\n[{path}]\n{_toml(value, path)}")
        elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            tables += [f"\n[[{path}]]\n{_toml(row, path)}" for row in value]
        elif value is not None:
            lines.append(f"{name} = {msgspec.json.encode(value).decode()}\n")
    return "".join([*lines, *tables])


def _read(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        content = file.read_bytes()
        found = msgspec.json.decode(content) if file.suffix == ".json" else tomllib.loads(content.decode())
    except OSError as error:
        raise UserError(f"the settings file '{file}' cannot be read: {error.strerror}. Give another.") from error
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        form = "JSON" if file.suffix == ".json" else "TOML"
        raise UserError(f"the settings file '{file}' is not {form}: {error}. Mend it.") from error
    if not isinstance(found, dict):
        raise UserError(f"the settings file '{file}' holds no settings but {found!r}. Write an object of settings.")
    return found


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted name; UserError when a part before a dot is no table."""
    *tables, last = name.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise UserError(f"settings: '{table}' of '{name}' is no table of settings. {_choices()}")
    values[last] = value


def _explain(message: str) -> str:
    """Msgspec's message with the setting's name in front; of an unknown name, what may have been meant."""
    said, _, path = message.partition(" - at `$")
    name = path.strip(".`")
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", said):
        return _unknown(f"{name}.{found[1]}" if name else found[1])
    return f"{name}: {said}. Mend the value." if name else f"{said}. Mend the value."


def _unknown(name: str) -> str:
    names = [row.name for row in describe_settings()]
    near = difflib.get_close_matches(name, [*names, *{known.split(".")[0] for known in names}], n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"no setting '{name}'. {_choices()}.{hint}"


def _choices() -> str:
    return f"Choose among: {', '.join(row.name for row in describe_settings())}"
