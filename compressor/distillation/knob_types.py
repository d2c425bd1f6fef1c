"""Values of a recipe as the type that a knob declares: numbers, whole numbers, words, lists of texts, nothing."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def converted(knobs: type, name: str, knob: str, value: object) -> Any:
    """The value as its knob's type; a whole number is a number.

    Args:
        knobs: the dataclass that declares the knob.
        name: of the method, for the message.
        knob: a field of the dataclass.
        value: from YAML, which reads a bare `off` as False.

    Raises:
        ValueError: the value has another type; says what was expected.
    """
    choices = _alternatives(get_type_hints(knobs)[knob])
    value = _word(value, choices)
    for choice in choices:
        if _fits(value, choice):
            return float(value) if choice is float and isinstance(value, int | float) else value
    words = [_in_words(choice) for choice in choices]
    expected = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    raise ValueError(f"{name}.{knob} is {value!r}, expected {expected}")


def _alternatives(hint: Any) -> list[Any]:
    """The members of a union; a Literal's words one by one."""
    if get_origin(hint) in (Union, UnionType):
        return [choice for member in get_args(hint) for choice in _alternatives(member)]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [hint]


def _word(value: object, choices: list[Any]) -> object:
    """YAML reads the bare words off and on as truth values."""
    word = {False: "off", True: "on"}.get(value) if isinstance(value, bool) else None
    return word if word in choices else value


def _fits(value: object, choice: Any) -> bool:
    if isinstance(choice, str):
        return value == choice
    if isinstance(value, bool):
        return choice is bool
    if choice is float:
        return isinstance(value, int | float)
    if get_origin(choice) is list:
        return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    return isinstance(value, choice)


def _in_words(choice: Any) -> str:
    if isinstance(choice, str):
        return f"'{choice}'"
    if get_origin(choice) is list:
        return "a list of texts"
    words = {float: "a number", int: "a whole number", NoneType: "nothing (null)"}
    return words[choice]
