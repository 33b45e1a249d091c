"""`lila-train recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from lila_train.training.overrides import table
from lila_train.training.recipes import RECIPES, Recipe
from lila_train.training.recipes import recipe as named
from stores import console


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe, to see all of its settings.")] = None,
) -> None:
    """List the recipes: the commands to run, the hardware, the result to expect; and the settings of one.

    Every name in a recipe's list of settings can be given to `lila-train run` and `lila-train ablate` with --set.
    """
    for key, found in RECIPES.items() if name is None else [(name, named(name))]:
        console.out.print(f"[bold]{key}[/]")
        for line in _words(found):
            console.out.print(f"  {line}")
    if name is not None:
        for setting, value in table(named(name).settings):
            console.out.print(f"  {setting}={value}", markup=False)


def _words(found: Recipe) -> tuple[str, ...]:
    return (found.build, found.run, f"hardware: {found.hardware}", f"expect: {found.expect}")
