"""Checks of the options of networks."""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

_KINDS = {int: "a whole number", str: "a text", bool: "true or false"}


def check_names(kind: str, config: type, options: Collection[str]) -> None:
    """Raise ValueError for an option that is no field of the dataclass `config`; the message lists the fields."""
    known = [field.name for field in fields(config)]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"unknown {kind} options {', '.join(unknown)}; known are {', '.join(known)}")


def check_values(kind: str, config: Any, allowed: dict[str, Collection]) -> None:
    """Raise ValueError for fields of a wrong type or outside the `allowed` range or texts; the message lists all."""
    wrong = []
    for field in fields(config):
        value, name = getattr(config, field.name), field.name
        if type(value) is not field.type:
            wrong.append(f"{name} must be {_KINDS[field.type]}, got {value!r:.100}")
        elif value not in (values := allowed.get(name, [value])):
            what = f"{values[0]} to {values[-1]}" if isinstance(values, range) else f"one of {', '.join(values)}"
            wrong.append(f"{name} must be {what}, got {value!r:.100}")
    if wrong:
        raise ValueError(f"{kind}: {'; '.join(wrong)}")
