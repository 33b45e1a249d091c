"""Settings changed by name: the options of the command line and the rows of an ablation say only what differs."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lila_train.training.settings import TrainSettings
from stores.errors import LilaError


def homes(settings: Any, prefix: str = "") -> dict[str, str]:
    """Each setting's name and its dotted place, such as `ridge: method.ridge`; names are unique over all levels."""
    found: dict[str, str] = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        place = f"{prefix}{entry.name}"
        found |= homes(value, f"{place}.") if is_dataclass(value) else {entry.name: place}
    return found


def changed(settings: TrainSettings, values: Mapping[str, Any]) -> TrainSettings:
    """The settings with some values replaced, by name, wherever they live; checked as a whole."""
    places = homes(settings)
    for name, value in values.items():
        settings = _put(settings, places[_known(name, places)].split("."), value)
    settings.check()
    return settings


def parsed(settings: TrainSettings, words: Sequence[str]) -> dict[str, Any]:
    """The values of `NAME=VALUE` words, each read as its setting's type; tuples are written with commas."""
    places, found = homes(settings), {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise LilaError(f"expected --set NAME=VALUE, found {word}")
        place = places[_known(name, places)].split(".")
        found[name] = _read(text, _type(settings, place), f"--set {name}")
    return found


def choice(settings: TrainSettings, name: str, word: str) -> Any:
    """A word for a setting that takes one of a few, refused with their list where it is none of them."""
    return _read(word, _type(settings, homes(settings)[name].split(".")), f"--{name.replace('_', '-')}")


def table(settings: TrainSettings) -> list[tuple[str, str]]:
    """Every name with its value, as `--set` would be told it."""
    return [(name, _written(_at(settings, place.split(".")))) for name, place in homes(settings).items()]


def _known(name: str, places: Mapping[str, str]) -> str:
    if name not in places:
        meant = [place for place in places if name and name in place] or get_close_matches(name, places, n=1)
        hint = f", did you mean {' or '.join(meant)}?" if meant else ""
        raise LilaError(f"expected --set to name one of {', '.join(places)}; found {name or 'nothing'}{hint}")
    return name


def _put(settings: Any, place: Sequence[str], value: Any) -> Any:
    first, *rest = place
    return replace(settings, **{first: _put(getattr(settings, first), rest, value) if rest else value})


def _at(settings: Any, place: Sequence[str]) -> Any:
    for name in place:
        settings = getattr(settings, name)
    return settings


def _type(settings: Any, place: Sequence[str]) -> Any:
    owner = _at(settings, place[:-1])
    return get_type_hints(type(owner))[place[-1]]


def _read(text: str, kind: Any, option: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
        return None if text == "none" else _read(text, kind, option)
    if origin is Literal:
        if text not in get_args(kind):
            raise LilaError(f"{option} must be {' or '.join(get_args(kind))}, found {text}")
        return text
    if origin is tuple:
        return _read_tuple(text, get_args(kind), option)
    if kind is bool:
        return _read(text, Literal["true", "false"], option) == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise LilaError(f"{option} must be a number ({kind.__name__}), found {text or 'nothing'}") from error


def _read_tuple(text: str, kinds: tuple[Any, ...], option: str) -> tuple[Any, ...]:
    words = text.split(",") if text else []
    if kinds[-1] is ...:
        return tuple(_read(word, kinds[0], option) for word in words)
    if len(words) != len(kinds):
        raise LilaError(f"{option} takes {len(kinds)} values with commas between, found {text or 'nothing'}")
    return tuple(_read(word, kind, option) for word, kind in zip(words, kinds, strict=True))


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_written(part) for part in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
