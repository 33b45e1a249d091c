"""Settings as frozen pydantic models: a field is the only definition of its type, default, range and description.

`--set NAME=VALUE`, JSON records, the comparison of two configs and the tables in docs/ derive from the fields.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from stores.errors import LilaError, did_you_mean

C = TypeVar("C", bound="Config")
MAX_SEED = 2**32 - 1


class Config(BaseModel):
    """Base of all configs: immutable, without unknown fields, infinities or NaN.

    Attributes:
        own_options: fields that the command line sets by an option of their name; --set NAME=VALUE sets the others.
        places: fields that only say where a file is.

    Raises:
        LilaError: a value is outside its range; the sentence names the option as a user types it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    own_options: ClassVar[frozenset[str]] = frozenset()
    places: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise LilaError("; ".join(dict.fromkeys(self._sentence(found) for found in error.errors()))) from None

    def replace(self: C, **values: Any) -> C:
        return type(self)(**(dict(self) | values))

    @classmethod
    def given(cls, arguments: Mapping[str, Any], assignments: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the fields that are set by a command's arguments, where they are not None, and then by --set."""
        named = {name: arguments[name] for name in cls.model_fields if arguments.get(name) is not None}
        return named | cls.parse_assignments(assignments or ())

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def shaping(self) -> dict[str, Any]:
        """Return the fields that shape the result, as JSON values: all but places."""
        return {name: value for name, value in self.to_dict().items() if name not in self.places}

    @classmethod
    def from_dict(cls: type[C], record: Mapping[str, Any], place: object) -> C:
        """Return the inverse of `to_dict`; a record with other fields than this version's raises LilaError."""
        if unlike := record.keys() ^ cls.model_fields.keys():
            raise LilaError(
                f"expected settings of this version in {place}, found a record that differs in "
                f"{', '.join(sorted(unlike))}; use the version that wrote it, or start again in another place"
            )
        return cls(**record)

    @classmethod
    def from_file(cls: type[C], path: Path, expected: str) -> C:
        """Return the settings in a JSON file, alone or under the name `settings`; `expected` is for the error."""
        try:
            record = json.loads(path.read_text("utf-8-sig"))
            return cls.from_dict(record.get("settings", record), path)
        except (OSError, ValueError, AttributeError) as error:
            raise LilaError(f"expected {expected} for --config, found {path}: {error}") from error

    def differences(self, other: Config) -> list[str]:
        """Return where another config differs from this one, as `name: this, not other`."""
        return differences(self.to_dict(), other.to_dict())

    def assignments(self) -> list[str]:
        """Return every field as the `NAME=VALUE` that --set takes."""
        return [f"{name}={_format(value)}" for name, value in self]

    @classmethod
    def parse_assignments(cls, assignments: Sequence[str], option: str = "--set") -> dict[str, Any]:
        """Return the values of `NAME=VALUE` strings of an option; tuples are written with commas, None as `none`."""
        values: dict[str, Any] = {}
        names = list(cls.model_fields)
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise LilaError(f"expected {option} NAME=VALUE, found {assignment}")
            if name not in names:
                found = f"{name or 'nothing'}{did_you_mean(name, names)}"
                raise LilaError(f"expected {option} to name one of {', '.join(names)}; found {found}")
            values[name] = cls._parse(name, text)
        return values

    @classmethod
    def _parse(cls, name: str, text: str) -> Any:
        """Read what pydantic does not: none, tuples, and booleans strictly."""
        annotation = cls.model_fields[name].annotation
        kind = _without_none(annotation)
        if kind is not annotation and text == "none":
            return None
        if get_origin(kind) is tuple:
            return tuple(text.split(",")) if text else ()
        if kind is bool and text not in ("true", "false"):
            raise LilaError(f"{cls.option(name)} must be true or false, found {text or 'nothing'}")
        return text

    @classmethod
    def option(cls, name: str) -> str:
        """Return how the command line sets a field."""
        return f"--{name.replace('_', '-')}" if name in cls.own_options else f"--set {name}"

    def assignment(self, name: str) -> str:
        """Return what the command line takes to set a field to its value here."""
        return f"{self.option(name)}{' ' if name in self.own_options else '='}{_format(getattr(self, name))}"

    @classmethod
    def help(cls, name: str) -> str:
        """Return the help text of a field's option: description, named values, and default unless none or false."""
        field = cls.model_fields[name]
        parts = [
            field.description or "",
            f"Values: {_range(cls, name)}." if "Literal[" in str(field.annotation) else "",
        ]
        if not field.is_required() and _format(field.default) not in ("", "none", "false"):
            parts.append(f"Default: {_format(field.default)}.")
        return " ".join(filter(None, parts))

    @classmethod
    def markdown_table(cls) -> str:
        """Return the table of all fields for docs/: option, default, values, meaning."""
        rows = ["| option | default | values | |", "|---|---|---|---|"]
        for name, field in cls.model_fields.items():
            default = "–" if field.is_required() else _format(field.get_default(call_default_factory=True)) or "none"
            rows.append(f"| `{cls.option(name)}` | {default} | {_range(cls, name)} | {field.description} |")
        return "\n".join(rows)

    @classmethod
    def _sentence(cls, error: ErrorDetails) -> str:
        name, context = str(error["loc"][0]) if error["loc"] else "", error.get("ctx", {})
        option, found = cls.option(name), _format(error["input"]) or "nothing"
        if error["type"] == "extra_forbidden":
            return f"expected one of {', '.join(cls.model_fields)}, found {name}"
        if error["type"] == "missing" and len(error["loc"]) == 1:
            return f"{option} is missing"
        if "error" in context:  # of a validator; its text continues the sentence
            return f"{option} {context['error']}"
        return f"{option} must be {_range(cls, name)}, found {found}"


def differences(recorded: Any, requested: Any, name: str = "") -> list[str]:
    """Return where two JSON documents differ, one phrase `name: recorded, not requested` per place."""
    if isinstance(recorded, dict) and isinstance(requested, dict):
        return [
            line
            for key in dict.fromkeys([*recorded, *requested])
            for line in differences(recorded.get(key), requested.get(key), f"{name}.{key}" if name else key)
        ]
    if recorded == requested:
        return []
    texts = [_format(value) or "none" for value in (recorded, requested)]
    found, wanted = (text if len(text) <= 60 else f"{text[:56]}…" for text in texts)
    return [f"{name}: {found}, not {wanted}"]


def _range(cls: type[Config], name: str) -> str:
    """Return a phrase for the values that a field takes."""
    field = cls.model_fields[name]
    kind = _without_none(field.annotation)
    metadata = field.metadata
    if get_origin(kind) is Annotated:  # of `X | None`
        kind, *metadata = get_args(kind)
    limits = {key: getattr(m, key) for m in metadata for key in ("gt", "ge", "lt", "le") if hasattr(m, key)}
    if get_origin(kind) is Literal:
        return _either(kind)
    if get_origin(kind) is tuple:
        parts = tuple(get_args(part)[0] if get_origin(part) is Annotated else part for part in get_args(kind))
        if get_origin(parts[0]) is Literal:
            return f"{_either(parts[0])}, or several with commas between"
        values = {float: "numbers", int: "whole numbers"}.get(parts[0], "names")
        return f"{values} with commas between" if parts[-1] is ... else f"{len(parts)} {values} with a comma between"
    if {"ge", "le"} <= limits.keys():
        return f"from {limits['ge']} to {limits['le']}"
    number = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")
    bounds = [f"above {limits['gt']}"] if "gt" in limits else []
    bounds += [f"of {limits['ge']} or more"] if "ge" in limits else []
    bounds += [f"and below {limits['lt']}"] if "lt" in limits else []
    return " ".join([number, *bounds, *(["or none"] if kind is not field.annotation else [])])


def _either(literal: Any) -> str:
    *first, last = get_args(literal)
    return f"{', '.join(first)} or {last}"


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (member for member in get_args(kind) if member is not types.NoneType)
    return kind


def _format(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:  # of a list of named entries, only their names
        return str(value["name"])
    if isinstance(value, tuple | list):
        return ",".join(_format(part) for part in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
