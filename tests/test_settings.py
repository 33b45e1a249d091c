"""A setting is defined once: `--set`, JSON, differences, the table and the help of its command come from the field."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer.main
from pydantic import Field, create_model

from stores.config import Config
from stores.errors import LilaError
from tests.settings_page import COMMANDS
from tests.test_readme import PROGRAMS

Positive = Annotated[int, Field(gt=0)]

REQUIRED: dict[str, dict[str, Any]] = {
    "lila-cues build": {"dataset": "demo", "encoder": "tiny", "depth": "tiny", "flow": "dis"},
    "lila-train run": {"steps": 1},
}


def extended(command: str) -> Any:
    """Return the command's config with one more field."""
    added = (int, Field(7, ge=1, description="A setting that was added."))
    return create_model("Extended", __base__=COMMANDS[command], added=added)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_added_field_is_everywhere(command: str) -> None:
    config = extended(command)
    default = config(**REQUIRED.get(command, {}))
    changed = default.replace(**config.parse_assignments(["added=9"]))
    assert changed.added == 9
    assert config.from_dict(changed.to_dict(), "here") == changed
    assert changed.shaping()["added"] == 9
    assert "added=9" in changed.assignments()
    assert default.differences(changed) == ["added: 7, not 9"]
    row = "| `--set added` | 7 | a whole number of 1 or more | A setting that was added. |"
    assert row in config.markdown_table().splitlines()
    assert config.help("added") == "A setting that was added. Default: 7."
    with pytest.raises(LilaError, match=r"^--set added must be a whole number of 1 or more, found 0$"):
        default.replace(added=0)


@pytest.mark.parametrize(
    ("command", "field", "values"),
    [
        ("lila-cues build", "decoder", "Values: pyav, decord or torchcodec. Default: pyav."),
        ("lila-train features", "format", "Values: npz, safetensors, zarr or pca, or several with commas between."),
    ],
)
def test_a_help_text_names_the_values(command: str, field: str, values: str) -> None:
    assert values in COMMANDS[command].help(field)


def test_an_added_field_of_a_build_is_in_the_fingerprint() -> None:
    config = extended("lila-cues build")
    assert config(**REQUIRED["lila-cues build"]).fingerprint({})["added"] == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_own_options_are_options_of_the_command_with_the_field_s_description(command: str) -> None:
    program, name = command.split()
    config = COMMANDS[command]
    options = {option: p for p in typer.main.get_group(PROGRAMS[program]).commands[name].params for option in p.opts}
    assert config.own_options <= config.model_fields.keys()
    assert config.places <= config.model_fields.keys()
    for field in config.own_options:
        described = getattr(options[config.option(field)], "help", None)
        assert str(described).startswith(str(config.model_fields[field].description)), field
    if config.own_options < config.model_fields.keys():
        assert "--set" in options


def test_the_values_of_a_tuple_are_named() -> None:
    class Tuples(Config):
        sides: tuple[int, ...] = Field((1,), description="")
        positive: tuple[Positive, Positive] = Field((1, 2), description="")

    with pytest.raises(LilaError, match="--set sides must be whole numbers with commas between, found a"):
        Tuples(sides=("a",))
    with pytest.raises(LilaError, match="--set positive must be 2 whole numbers with a comma between, found 0"):
        Tuples(positive=(1, 0))
