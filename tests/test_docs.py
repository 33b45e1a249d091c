"""The commands of the documents parse, the files that they name exist, and their examples run."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
from PIL import Image

import stores
from lila_train.evaluation import harness, protocols
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense.training import ProbeRecipe
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.protocols import open_task
from stores.errors import LilaError
from tests import settings_page
from tests.test_readme import PROGRAMS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "CONTRIBUTING.md"]
LONGEST = 200  # lines
CPU = torch.device("cpu")
GROUPS = {name: typer.main.get_group(app) for name, app in PROGRAMS.items()}


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code by what stands behind its fence, such as `python source`."""
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Page and line of every command: lines of a block, also behind torchrun or srun, and inline code."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        lines = re.findall(r"^(?:torchrun .*? -m |srun )?((?:lila-cues|lila-train|lila_train) .*)$", text, re.MULTILINE)
        words = re.findall(r"`((?:lila-cues|lila-train) [a-z]+[^`]*)`", text)
        found += [(page.name, line.split(" #")[0].replace("lila_train ", "lila-train ")) for line in (*lines, *words)]
    return found


@pytest.mark.parametrize(("page", "command"), commands())
def test_a_command_of_the_documents_parses(page: str, command: str) -> None:
    program, name, *arguments = shlex.split(command)
    group = GROUPS[program]
    assert name in group.commands, f"{page} has {command}, but {program} knows no {name}"
    if arguments or name in ("models", "recipes"):
        with suppress(typer.Exit):  # of an option such as --list, which prints and ends
            group.commands[name].make_context(name, arguments)


def test_documents_have_commands_and_are_short() -> None:
    assert {"scaling.md", "protocols.md", "store-format.md"} <= {page for page, _ in commands()}
    long = {page.name: n for page in PAGES if (n := len(page.read_text().splitlines())) > LONGEST}
    assert not long, f"cut what a reader does not need, or make two pages: {long}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_document_names_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`((?:stores|lila_cues|lila_train|tests|docs)/[\w/.]*)`", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"{page.name} names {', '.join(missing)}"
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all((page.parent / link).exists() for link in links)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_knows_the_targets_of_a_document(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE)) <= targets


def test_every_protocol_is_described() -> None:
    text = (ROOT / "docs/protocols.md").read_text()
    names = {name: name if name in text else f"`@{name.partition('@')[2]}`" for name in protocols.PROTOCOLS}
    assert [name for name, shown in names.items() if shown not in text] == []


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    found = (ROOT / "docs/settings.md").read_text()
    assert found == settings_page.page(), "run `python -m tests.settings_page > docs/settings.md`"


def test_the_arrays_of_the_format_are_those_of_a_store() -> None:
    from stores.spec import arrays

    rows = re.findall(r"^\| (`.*?`) \|", (ROOT / "docs/store-format.md").read_text(), flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    geometry = stores.Geometry(16, 12, (480, 480), (224, 224), (112, 112), (16, 16), 64)
    assert named == {*arrays(stores.StoreSpec(geometry)), "status", "clip_name"}


def test_the_reading_of_a_store_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.stores import worlds

    monkeypatch.chdir(tmp_path)
    worlds.fill(worlds.create(tmp_path / "cues/demo.zarr", 3))
    names: dict[str, Any] = {}
    (example,) = blocks(ROOT / "docs/store-format.md", "python")
    exec(example, names)  # noqa: S102 - the document is ours
    assert names["depth"].dtype == np.float32
    assert names["pair"].rgb.shape[0] == 2
    assert names["pair"].depth is None


def module_of(page: str, language: str, name: str) -> ModuleType:
    """The example of a page, run as the module it would be."""
    (example,) = blocks(ROOT / "docs" / page, language)
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    exec(example, vars(module))  # noqa: S102 - the document is ours
    return module


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_the_data_set_of_the_documents_reads_its_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lila_cues.datasets import DATASETS, open_dataset

    monkeypatch.setitem(sys.modules, "lila_cues.flat", ModuleType("replaced"))
    module = module_of("adding-a-data-set.md", "python dataset", "lila_cues.flat")
    monkeypatch.setitem(DATASETS, "flat", module.Flat)
    for clip, count in (("a_dog", 11), ("cat", 2)):
        for number in range(count):
            save(np.full((16, 24, 3), 20 * number, np.uint8), tmp_path / "flat" / f"{clip}_{number}.jpg")
    dataset = open_dataset("flat", tmp_path / "flat")
    assert dataset.clips() == ["a_dog", "cat"]
    clip = dataset.read("a_dog", lambda n_frames: [10, 2], np.asarray)
    assert clip.n_frames == 11
    assert clip.frames.mean(axis=(1, 2, 3)).round().tolist() == [200, 40]
    (tmp_path / "empty").mkdir()
    with pytest.raises(LilaError, match=r"expected images CLIP_NUMBER\.jpg in .*empty, found none; pass --root"):
        open_dataset("flat", tmp_path / "empty")


def test_the_protocol_of_the_documents_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "PROTOCOLS", dict(protocols.PROTOCOLS))
    monkeypatch.setitem(sys.modules, "example_protocol", ModuleType("replaced"))
    module = module_of("adding-a-data-set.md", "python protocol", "example_protocol")
    labels = np.repeat(np.array([0, 1, 2, 255], np.uint8), 16)[None].repeat(48, axis=0)
    for split in ("train", "val"):
        for name in "abc":
            save(np.repeat(labels[..., None], 3, axis=2), tmp_path / "roofs" / split / f"{name}.jpg")
            save(labels, tmp_path / "roofs" / split / f"{name}.png")
    task = open_task("roofs", tmp_path / "roofs", EvalConfig(limit=2))
    assert task.counts() == {"train images": 2, "images": 2}
    short = replace(task, rule=replace(module.ROOFS, recipe=ProbeRecipe(1, 2, 1e-3, 0.0)))
    result = harness.evaluate(short, ModelSpec(encoder="tiny"), tmp_path / "out", CPU)
    assert 0 <= result["scores"]["encoder"]["miou"] <= 1


def test_the_model_of_the_documents_is_scored(tmp_path: Path) -> None:
    from lila_train.evaluation.models import PixelModel
    from tests.lila_train.evaluation.worlds import write_davis

    (example,) = blocks(ROOT / "docs/adding-a-model.md", "python model")
    (tmp_path / "my_model.py").write_text(example)
    spec = ModelSpec(baseline=str(tmp_path / "my_model.py"), encoder="tiny")
    model = spec.load(CPU)
    assert isinstance(model, PixelModel)
    assert model.pixel_map(torch.rand(2, 3, 16, 24)).shape == (2, 9, 16, 24)
    task = open_task("davis-knn@lila", write_davis(tmp_path / "davis", ("one",), 4), EvalConfig(short_side=48))
    result = harness.evaluate(task, spec, tmp_path / "out", CPU)
    assert result["scores"]["my_model"]["JF"] > 0.8  # squares of one color each
    assert set(result["scores"]) == {"encoder", "my_model"}


def test_the_cue_of_the_documents_gives_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    from lila_train.training import targets
    from lila_train.training.crops import make_views
    from tests.lila_train.training.test_views import CONFIG, FLIPPED, SIZE, shear

    (example,) = blocks(ROOT / "docs/adding-a-cue.md", "python cues")
    names = dict(vars(targets))
    exec(example, names)  # noqa: S102 - the document is ours
    monkeypatch.setattr(targets, "CUES", names["CUES"])
    config = CONFIG.replace(cues=("depth", "brightness"))
    context, query = make_views(shear(query=FLIPPED), config)
    for view in (context, query):
        torch.testing.assert_close(view.target[:, :1], view.image.mean(dim=1, keepdim=True))
        assert view.target.shape == (1, 2, SIZE, SIZE)
        assert view.weight.shape[1] == 2  # of each cue
    true = context.target[0, :1].numpy()
    assert all(picture.shape == (SIZE, SIZE, 3) for picture in names["Brightness"](config).draw(true, true))


def demo_folder(root: Path) -> Path:
    """What `make demo` writes, in little: held-out frames with masks, weights, and a store of cues."""
    from lila_train import Lila
    from tests.lila_train.evaluation.worlds import write_davis
    from tests.lila_train.inference.models import write_weights
    from tests.lila_train.training import world

    heldout = write_davis(root / "data/demo/heldout", ("one",))
    frames = [Image.open(path) for path in sorted(heldout.glob("JPEGImages/480p/one/*.jpg"))]
    model = Lila.from_encoder("tiny", init="pca", images=frames, decoder_width=32)
    (root / "runs/demo/train").mkdir(parents=True)
    write_weights(root / "runs/demo/train/weights.safetensors", model)
    world.build(root / "runs/demo/cues.zarr", clips=2)
    return heldout


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    demo_folder(tmp_path)
    monkeypatch.chdir(tmp_path / "runs")
    notebook = json.loads((ROOT / "docs/quickstart.ipynb").read_text())
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "commit it without outputs"
            exec("".join(cell["source"]), names)  # noqa: S102 - the document is ours
    assert names["features"][0].shape == (16, 48, 64)
    assert names["similarity"].max() <= 1 + 1e-6
    assert names["accuracy"] > 0.9  # the squares have one color each
    assert names["mean_depth"].shape == (2,)
    plt.close("all")


def test_the_segmentation_head_learns(tmp_path: Path) -> None:
    heldout = demo_folder(tmp_path)
    module = ModuleType("segmentation_head")
    code = (ROOT / "docs/segmentation_head.py").read_text()
    body = code.partition("def train")[2].partition("\n\n\n")[0]
    assert len(body.splitlines()) <= 30
    exec(code, vars(module))  # noqa: S102 - the document is ours
    places = [heldout / folder / "480p/one" for folder in ("JPEGImages", "Annotations")]
    torch.manual_seed(0)
    model, head = module.train(*places, str(tmp_path / "runs/demo/train"))
    with torch.no_grad():
        features = torch.from_numpy(model.features(Image.open(places[0] / "00002.jpg")))
        found = head(features.movedim(0, -1)).argmax(-1).numpy()
    assert (found == np.asarray(Image.open(places[1] / "00002.png"))).mean() > 0.9


def test_the_models_of_your_vit_load_and_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lila_cues.networks import load_encoder

    demo_folder(tmp_path)
    (tmp_path / "runs/demo/train").rename(tmp_path / "runs/mine")
    torch.save(load_encoder("vit_tiny_patch16_224", "random:1").vit.state_dict(), tmp_path / "mine.pth")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"image": np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)}
    for block in blocks(ROOT / "docs/your-vit.md", "python"):
        exec(block, names)  # noqa: S102 - the document is ours
    np.testing.assert_array_equal(names["again"].features(names["image"]), names["features"])
    assert names["untrained"].features(names["image"]).shape == (48, 40, 56)


def test_the_site_shows_every_page() -> None:
    """Those of docs/ and those that its hook makes; `make docs` builds it and follows its links."""
    text = (ROOT / "mkdocs.yml").read_text()
    hook = (ROOT / "docs/mkdocs_hook.py").read_text()
    listed = set(re.findall(r"- (?:[\w ]+: )?([\w/-]+\.md)$", text, flags=re.MULTILINE))
    made = set(re.findall(r'"([\w-]+\.md)": "', hook)) | {
        f"api/{n}.md" for n in re.findall(r'^    "(\w+)": \(', hook, re.M)
    }
    assert listed == {page.name for page in DOCS} | made | {"quickstart.md"}
    modules = re.findall(r'"((?:stores|lila_cues|lila_train)\.[\w.]+)"', hook)
    assert len(modules) >= 8
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []


def test_the_version_is_the_same_everywhere() -> None:
    """Of the package, in the citation and of the newest release in the changelog."""
    (version,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0] == version


def walk_steps() -> list[tuple[str, str]]:
    """File and name of every `file.py: name` in the walks of CONTRIBUTING."""
    return re.findall(r"`([\w/]+\.py): ([\w.]+)`", (ROOT / "CONTRIBUTING.md").read_text())


def test_there_are_three_walks() -> None:
    walks = (ROOT / "CONTRIBUTING.md").read_text().partition("## Set up")[0]
    assert [len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) for walk in walks.split("\n**")[1:]] == [12, 12, 10]
    assert len(walk_steps()) >= 34


@pytest.mark.parametrize(("file", "name"), walk_steps())
def test_the_steps_of_the_walks_exist(file: str, name: str) -> None:
    """A name is a function, a class, or a method of one as CLASS.METHOD."""
    defined = (ast.FunctionDef, ast.ClassDef)
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text()).body
    for part in name.split("."):
        found = [node for node in body if isinstance(node, defined) and node.name == part]
        assert found, f"{file} defines no {name}"
        body = found[0].body


def test_the_list_of_mutations_names_their_tests() -> None:
    from tests.test_mutations import MUTATIONS

    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert {file for mutation in MUTATIONS for file in mutation.noticed_by if f"`{file}`" not in text} == set()
