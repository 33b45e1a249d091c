"""Print docs/settings.md: `python -m tests.settings_page > docs/settings.md`."""

from __future__ import annotations

from lila_cues.config import BuildConfig
from lila_train.evaluation.config import EvalConfig
from lila_train.inference.config import FeatureConfig
from lila_train.training.config import TrainConfig
from stores.config import Config

COMMANDS: dict[str, type[Config]] = {
    "lila-cues build": BuildConfig,
    "lila-train run": TrainConfig,
    "lila-train eval": EvalConfig,
    "lila-train features": FeatureConfig,
}
HEAD = """# Settings

What shapes the result of a command. `--set NAME=VALUE` may be given more than once; a tuple is written with commas,
no value as `none`. `--config` takes the settings of another store (`build`) or the `run.json` of another run (`run`).
Folders, devices, workers and intervals change no result; they are in `--help`.

The tables are made from the code: `python -m tests.settings_page > docs/settings.md`.
"""


def page() -> str:
    """Return the document: a table per command."""
    return HEAD + "".join(f"\n## {name}\n\n{config.markdown_table()}\n" for name, config in COMMANDS.items())


if __name__ == "__main__":
    print(page(), end="")
