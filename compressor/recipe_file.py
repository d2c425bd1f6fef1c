"""Recipes as files: reading, overriding, explaining errors, writing and the commented example.

All errors of a file are collected and raised together, before any download or training.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from compressor.recipe import Recipe, Settings, TeacherSettings, TrainingSettings
from serving.errors import UserError


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe file.

    Args:
        path: a YAML file.
        overrides: `key=value` with a dotted key and a YAML value, as of `--set`.

    Raises:
        UserError: one message that lists every error of the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"no recipe '{path}'. Give a YAML file; `compressor recipe --example` prints one.") from error
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"the recipe '{path}' is not a UTF-8 text file ({error}). Save it as UTF-8 YAML.") from error
    return parse_recipe(text, overrides, origin=str(path))


def parse_recipe(text: str, overrides: Sequence[str] = (), *, origin: str = "recipe") -> Recipe:
    """Validate a recipe's YAML text; see `load_recipe`."""
    raw = read_yaml(text, origin=origin)
    if not isinstance(raw, dict):
        raise UserError(f"{origin} holds {type(raw).__name__}, expected a mapping of keys such as name and tasks.")
    for override in overrides:
        _apply_override(raw, override)
    return build_recipe(raw, origin=origin)


def read_yaml(text: str, *, origin: str) -> Any:
    """The values of a YAML text; UserError says in one line where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown line"
        raise UserError(f"{origin} is not valid YAML: {place}: {error.problem}. Mend that line.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{origin} is not valid YAML: line {line}: {error.reason}. Mend that line.") from error


def build_recipe(raw: Mapping[str, Any], *, origin: str = "recipe") -> Recipe:
    """Validate a recipe given as plain values; UserError lists all problems at once."""
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        lines = list(dict.fromkeys(_explain(dict(problem)) for problem in error.errors()))
        if len(lines) == 1:
            raise UserError(f"{origin}: {lines[0]}") from error
        raise UserError(f"{origin} has {len(lines)} errors: " + "; ".join(lines)) from error


def recipe_from_options(options: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe of one task from the options of `compressor run`.

    Args:
        options: `data`, `text`, `label`, `teacher`, `layers` and `method`; what is left out, None or empty keeps
            its default.
        overrides: of `--set`.
    """
    given = {name: value for name, value in options.items() if value}
    if "data" not in given:
        raise UserError("run needs a recipe or --data. Give a YAML file, or --data FILE --text COLUMN --label COLUMN.")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(given["data"].split(":")[0]).stem).strip("-.") or "run"
    task = {key: given[key] for key in ("data", "text", "label") if key in given}
    raw: dict[str, Any] = {"name": stem, "tasks": {_task_name(given.get("label")): task}}
    if "teacher" in given:
        raw["teacher"] = {"model": given["teacher"]}
    if "layers" in given:
        raw["student"] = {"layers": given["layers"]}
    if "method" in given:
        raw["method"] = given["method"]
    for override in overrides:
        _apply_override(raw, override)
    return build_recipe(raw, origin="the options")


def _task_name(label: str | None) -> str:
    name = re.sub(r"\W+", "_", label or "label", flags=re.ASCII).strip("_")
    return name if name[:1].isalpha() else f"label_{name}".rstrip("_")


def changed_recipe(recipe: Recipe, changes: Mapping[str, Any], *, origin: str) -> Recipe:
    """A recipe with other values at some dotted keys, such as `training.epochs`; validated like a file.

    Args:
        recipe: is not changed.
        changes: plain values by dotted key.
        origin: what an error names.
    """
    raw = recipe.model_dump(mode="json")
    for key, value in changes.items():
        _set_key(raw, key, value, origin=origin)
    return build_recipe(raw, origin=origin)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, complete with the values that were left to their defaults."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def example_recipe() -> str:
    """A commented recipe: every key with its default and its description."""
    head = "# Every key of a recipe with its default. Only name, tasks and each task's data are required.\n"
    required = {"name": "my-run", "tasks": {"intent": {"data": "supportdesk", "label": "intent"}}}
    recipe = Recipe.model_validate(required)
    return head + "\n".join(_commented(recipe, indent=0)) + "\n"


def _commented(section: Settings, indent: int) -> Iterator[str]:
    pad = "  " * indent
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(section, TeacherSettings) and key in TrainingSettings.model_fields:
            continue
        if isinstance(value, Settings):
            yield f"{pad}{key}:"
            yield from _commented(value, indent + 1)
        elif isinstance(section, Recipe) and key == "tasks":
            yield f"{pad}tasks:  # {field.description}"
            for name, task in value.items():
                yield f"{pad}  {name}:"
                yield from _commented(task, indent + 2)
        else:
            shown = yaml.safe_dump(_plain(value), default_flow_style=True, allow_unicode=True, width=1000).strip()
            yield f"{pad}{key}: {shown.removesuffix('...').strip()}  # {field.description}"


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set '{override}' was not understood. Expected key=value, e.g. training.epochs=3.")
    origin = f"--set '{override}'"
    _set_key(raw, key.strip(), read_yaml(value, origin=f"{origin}: the value"), origin=origin)


def _set_key(raw: dict[str, Any], key: str, value: object, *, origin: str) -> None:
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        child = section[parent]
        if not isinstance(child, dict):
            raise UserError(f"{origin}: '{parent}' is not a section. Set '{parent}' itself.")
        section = child
    section[last] = value


def _explain(problem: dict[str, Any]) -> str:
    # pydantic names the members of a union too, such as `constrained-int`
    place = ".".join(str(part) for part in problem["loc"] if re.fullmatch(r"\w+", str(part), re.ASCII))
    if problem["type"] == "extra_forbidden":
        known = _keys_at(problem["loc"][:-1])
        return unknown_name("key", place, known, given=str(problem["loc"][-1]))
    if problem["type"] == "missing":
        return f"'{place}' is missing; add it"
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = (
        "" if isinstance(problem["input"], dict) or problem["type"] == "value_error" else f" (got {problem['input']!r})"
    )
    return f"{place}: {message}{given}" if place else message


def unknown_name(kind: str, name: str, choices: Sequence[str], *, given: str | None = None) -> str:
    """'no KIND NAME. Choose one of: ... Did you mean X?' with the nearest choice where there is one."""
    near = difflib.get_close_matches(given or name, choices, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"no {kind} '{name}'. Choose one of: {', '.join(choices)}.{hint}"


def _keys_at(location: Sequence[int | str]) -> list[str]:
    section: Any = Recipe
    for part in location:
        fields = getattr(section, "model_fields", {})
        if str(part) in fields:  # otherwise the part names an entry of a mapping, such as a task
            section = _section_type(fields[str(part)].annotation)
    return list(getattr(section, "model_fields", {}))


def _section_type(annotation: Any) -> Any:
    """The Settings class inside an optional or a mapping annotation, else the annotation."""
    if get_origin(annotation) in (Union, types.UnionType, dict, Annotated):
        for inner in get_args(annotation):
            found = _section_type(inner)
            if isinstance(found, type) and issubclass(found, Settings):
                return found
    return annotation
