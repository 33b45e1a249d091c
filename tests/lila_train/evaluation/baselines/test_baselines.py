"""Models of other authors: small stand-ins here, the real code where `$LILA_CLONES` holds clones."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lila_cues.networks import FrozenEncoder, load_encoder
from lila_cues.networks.weights import file_sha256
from lila_train.cli import app
from lila_train.evaluation import baselines
from lila_train.evaluation.baselines import Baseline, BaselineOptions, find, grid_of, importable, names, normalized
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.models import PixelModel, feature_map
from lila_train.report.tables import tables
from stores.errors import LilaError
from tests.lila_train.evaluation.worlds import write_davis

CPU = torch.device("cpu")
RANDOM = Path("random:3")

STAND_IN = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = torch.nn.Conv2d(width, 5, 1)
    def forward(self, grid, image):
        return torch.nn.functional.interpolate(self.mix(grid), scale_factor=2)
"""


def clone_of(folder: Path, text: str = STAND_IN) -> Path:
    (folder / "src").mkdir(parents=True)
    (folder / "src/__init__.py").write_text("")
    (folder / "src/net.py").write_text(text)
    return folder


def stand_in(**changes) -> Baseline:
    row = {
        "name": "stand-in",
        "build": lambda encoder: import_module("src.net").Net(encoder.width),
        "call": lambda network, encoder, images: network(encoder.grid(images), normalized(images)),
        "repository": "nobody/nothing",
        "revision": "0" * 40,
        "marker": "src/net.py",
        "license": "mit",
        "encoder": "tiny",
        "weights": "https://nowhere.invalid/x.pth",
    }
    return Baseline(**(row | changes))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(2))


def test_a_clone_becomes_a_pixel_model_on_our_encoder(tmp_path: Path, image: torch.Tensor):
    asked = BaselineOptions(baseline_repo=clone_of(tmp_path / "clone"), baseline_weights="random:1")
    model = stand_in().load(asked, CPU)
    assert isinstance(model, PixelModel)
    grid = model.encoder_grid(image)
    torch.testing.assert_close(grid, load_encoder("tiny").grid(image))
    torch.testing.assert_close(model.encoder_taps(image)[-1], grid)
    own = nn.functional.interpolate(model.network(grid, image), (48, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(feature_map(model, "stand-in")(image), own)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    about = model.describe()["baseline"]
    assert (about["name"], about["licence"], about["revision"]) == ("stand-in", "mit", "a local clone")


def test_the_encoder_runs_once_for_its_grid_and_the_network_on_it(
    tmp_path: Path, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    asked = BaselineOptions(baseline_repo=clone_of(tmp_path / "clone"), baseline_weights="random:1")
    model = stand_in(call=lambda network, encoder, images: network(grid_of(encoder, images), images)).load(asked, CPU)
    passes: list[torch.Tensor] = []
    tokens = FrozenEncoder.tokens
    monkeypatch.setattr(FrozenEncoder, "tokens", lambda self, x: passes.append(x) or tokens(self, x))
    own = nn.functional.interpolate(model.network(model.encoder_grid(image), image), (48, 64), mode="bilinear")
    torch.testing.assert_close(model.pixel_map(image), own)
    assert len(passes) == 1


def test_weights_are_taken_from_their_prefix_and_must_be_complete(tmp_path: Path):
    root = clone_of(tmp_path / "clone")
    trained = {"jafar": {"mix.weight": torch.ones(5, 96, 1, 1), "mix.bias": torch.zeros(5)}, "optimiser": {"step": 3}}
    torch.save(trained, tmp_path / "weights.pth")
    asked = BaselineOptions(baseline_repo=root, baseline_weights=tmp_path / "weights.pth")
    model = stand_in(prefixes={"jafar.": ""}).load(asked, CPU)
    assert model.network.mix.weight.unique().tolist() == [1]
    with pytest.raises(LilaError, match=r"2 missing \(mix\.weight, mix\.bias\).*--baseline-weights"):
        stand_in(prefixes={"other.": ""}).load(asked, CPU)


def test_weights_with_pickled_code_are_refused(tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {}, "settings": SimpleNamespace(a=1)}, path)
    with pytest.raises(LilaError, match=r"tensors by name in .*weights\.pth .*cannot be read .*--baseline-weights"):
        baselines.read_nested(path)
    with pytest.raises(LilaError, match=r"expected a weight file at .*none\.pth, found none; .*--baseline-weights"):
        baselines.read_nested(tmp_path / "none.pth")


def test_clones_with_equal_module_names_do_not_mix(tmp_path: Path):
    path, modules = list(sys.path), set(sys.modules)
    for word in ("one", "other"):
        with importable(clone_of(tmp_path / word, f"WORD = {word!r}")):
            assert vars(import_module("src.net"))["WORD"] == word
    assert sys.path == path
    assert {name for name in set(sys.modules) - modules if name.startswith("src")} == set()


def test_a_missing_package_of_a_clone_is_named(tmp_path: Path):
    root = clone_of(tmp_path / "clone", "import no_such_package_at_all")
    with pytest.raises(LilaError, match=r"not installed or does not work here \(No module named 'no_such_package"):
        stand_in().load(BaselineOptions(baseline_repo=root, baseline_weights="random"), CPU)


@pytest.mark.parametrize(
    ("text", "raised"),
    [
        ("raise TypeError('no GPU\\nhere')", "TypeError: no GPU"),
        (STAND_IN.replace("super()", "1 / 0; super()"), "ZeroDivisionError: division by zero"),
    ],
)
def test_whatever_the_code_raises_is_one_sentence(tmp_path: Path, text: str, raised: str):
    root = clone_of(tmp_path / "clone", text)
    with pytest.raises(LilaError, match=rf"failed for --baseline stand-in \({raised}, in .*net\.py, line \d+\)"):
        stand_in().load(BaselineOptions(baseline_repo=root, baseline_weights="random"), CPU)


def test_warnings_of_the_code_are_named(tmp_path: Path, image: torch.Tensor):
    warn = "import warnings; warnings.warn('old')\n"
    text = warn + STAND_IN.replace("        return", f"        {warn}        return")
    options = BaselineOptions(baseline_repo=clone_of(tmp_path / "clone", text), baseline_weights="random")
    with pytest.warns(UserWarning, match="stand-in: old"):
        model = stand_in().load(options, CPU)
    with pytest.warns(UserWarning, match="stand-in: old"):
        model.pixel_map(image)


def test_packages_without_a_file_are_forgotten_too(tmp_path: Path):
    for word in ("one", "other"):
        root = clone_of(tmp_path / word, f"WORD = {word!r}")
        (root / "src/deep").mkdir()
        (root / "src/deep/part.py").write_text(f"WORD = {word!r}")
        with importable(root):
            assert vars(import_module("src.deep.part"))["WORD"] == word
        assert "src.deep" not in sys.modules


def test_minutes_are_announced_once(
    image: torch.Tensor, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    model = ModelSpec(baseline="enlarged-2", encoder="tiny").load(CPU)
    model.pixel_map(image)
    assert "about" not in capsys.readouterr().err
    model = ModelSpec(baseline="enlarged-2", encoder="tiny").load(CPU)
    monkeypatch.setattr(baselines, "SLOW_SECONDS", 0)
    for _ in range(2):
        model.pixel_map(image)
    assert capsys.readouterr().err.count("enlarged-2: about") == 1


def test_a_folder_without_the_code_is_refused(tmp_path: Path):
    with pytest.raises(LilaError, match=r"a clone of nobody/nothing, with src/net\.py in it, found none at .*empty"):
        stand_in().load(BaselineOptions(baseline_repo=tmp_path / "empty", baseline_weights="random"), CPU)


def test_code_is_fetched_once_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    clone_of(tmp_path / "nothing-000")
    archive = tmp_path / "nothing.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in (tmp_path / "nothing-000").rglob("*.py"):
            packed.write(file, file.relative_to(tmp_path))
    monkeypatch.setattr(baselines, "ARCHIVE_URL", archive.as_uri())
    root = stand_in().code(None)
    assert (root / "src/net.py").read_text() == STAND_IN
    archive.unlink()
    assert stand_in().code(None) == root


def test_unavailable_code_and_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(baselines, "ARCHIVE_URL", (tmp_path / "none.zip").as_uri())
    with pytest.raises(
        LilaError, match=r"nobody_nothing.*\.zip in .* or at file:.*pass a clone of nobody/nothing with --bas"
    ):
        stand_in().code(None)
    (tmp_path / "torn.zip").write_bytes(b"half of it")
    monkeypatch.setattr(baselines, "ARCHIVE_URL", (tmp_path / "torn.zip").as_uri())
    with pytest.raises(LilaError, match=r"nobody/nothing as a zip file at file:.*cannot be unpacked .*pass a clone"):
        stand_in().code(None)
    place = (tmp_path / "none.pth").as_uri()
    with pytest.raises(LilaError, match=r"none\.pth in .* or at file:.*give a local file with --baseline-weights"):
        baselines.load_weights(nn.Linear(2, 2), place, {"": ""})
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "some.pth")
    baselines.load_weights(nn.Linear(2, 2), (tmp_path / "some.pth").as_uri(), {"": ""})


def test_the_identity_names_code_weights_and_encoder(tmp_path: Path):
    fetched = stand_in().identity(BaselineOptions())
    assert fetched["revision"] == "0" * 40
    assert fetched["baseline_weights"] == "https://nowhere.invalid/x.pth"
    assert fetched["encoder"] == "tiny"
    local = stand_in().identity(
        BaselineOptions(baseline_repo=tmp_path, baseline_weights="random:4", encoder_weights="random:5")
    )
    assert (local["baseline_weights"], local["encoder_weights"]) == ("random:4", "random:5")
    with pytest.raises(LilaError, match=r"the baseline's weights at .*none\.pth, found none"):
        stand_in().identity(BaselineOptions(baseline_weights=tmp_path / "none.pth"))


def test_every_shipped_baseline_is_complete():
    assert {"featup", "loftup", "flowfeat", "anyup", "jafar", "naf", "enlarged", "vjepa2", "videomae"} <= set(names())
    assert {"uplift", "uplift-fast", "vit-up", "vjepa2-1", "lingbot-vision"} <= set(names())
    for name in names():
        baseline = find(name)
        assert baseline.heads in (("encoder", name), ("encoder",))
        if baseline.repository is not None:
            assert len(str(baseline.revision)) == 40
            assert baseline.license
            assert baseline.weights
            assert baseline.encoder or baseline.transformer


MY_MODEL = """
import torch

def build(encoder):
    return torch.nn.Conv2d(3, 4, 1)

def call(network, encoder, images):
    return network(images)
"""


def test_a_file_of_the_user_is_a_baseline(tmp_path: Path, image: torch.Tensor):
    path = tmp_path / "my_model.py"
    path.write_text(MY_MODEL)
    spec = ModelSpec(baseline=str(path), encoder="tiny", baseline_weights=RANDOM)
    model = spec.load(CPU)
    assert spec.heads() == ("encoder", "my_model")
    assert model.pixel_map(image).shape == (1, 4, 48, 64)
    torch.testing.assert_close(model.pixel_map(image), spec.load(CPU).pixel_map(image))
    assert spec.identity() == {
        "baseline": "my_model",
        "baseline_sha256": file_sha256(path),
        "baseline_weights": "random:3",
        "encoder": "tiny",
    }
    torch.save({"weight": torch.zeros(4, 3, 1, 1), "bias": torch.ones(4)}, tmp_path / "my.pth")
    trained = ModelSpec(baseline=str(path), encoder="tiny", baseline_weights=tmp_path / "my.pth").load(CPU)
    assert trained.pixel_map(image).unique().tolist() == [1]


def test_a_file_of_the_user_may_import_a_clone(tmp_path: Path, image: torch.Tensor):
    path = tmp_path / "with_clone.py"
    path.write_text(
        "from importlib import import_module\n"
        "def build(encoder): return import_module('src.net').Net(encoder.width)\n"
        "def call(network, encoder, images): return network(encoder.grid(images), images)\n"
    )
    spec = ModelSpec(baseline=str(path), encoder="tiny", baseline_repo=clone_of(tmp_path / "clone"))
    assert spec.load(CPU).pixel_map(image).shape == (1, 5, 48, 64)


def test_a_package_that_a_file_of_the_user_lacks_is_named(tmp_path: Path):
    path = tmp_path / "lacking.py"
    path.write_text("def build(encoder): import not_installed\ndef call(network, encoder, images): return images\n")
    with pytest.raises(LilaError, match=r"the baseline's code needs a package .*No module named 'not_installed'"):
        ModelSpec(baseline=str(path), encoder="tiny").load(CPU)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none", None, r"expected a Python file with a baseline at .*none\.py, found none; pass its path with --basel"),
        (
            "half",
            "def build(encoder): ...",
            r"call\(network, encoder, images\) in .*half\.py, found build; see docs/add",
        ),
        ("empty", "", r"expected build\(encoder\) and call\(.*\) in .*empty\.py, found neither; see"),
        ("broken", "1 / 0", r"the baseline .*broken\.py cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("needy", "import no_such_package", r"needy\.py cannot be imported \(ModuleNotFoundError: No module named"),
        ("encoder", MY_MODEL, r"expected another name than .*encoder\.py, since encoder names the grid in results"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, name: str, text: str | None, message: str):
    path = tmp_path / f"{name}.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LilaError, match=message):
        ModelSpec(baseline=str(path), encoder="tiny").heads()


def test_an_enlarged_input_gives_a_token_per_pixel_that_agrees_with_its_grid(image: torch.Tensor):
    spec = ModelSpec(baseline="enlarged-2", encoder="tiny")
    model = spec.load(CPU)
    assert spec.heads() == ("encoder", "enlarged-2")
    larger = nn.functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    finer = model.encoder_grid(larger)
    expected = nn.functional.interpolate(finer, (48, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.pixel_map(image), expected)
    assert model.describe()["baseline"]["name"] == "enlarged-2"
    assert len(model.encoder_taps(image)) == 4
    full = ModelSpec(baseline="enlarged", encoder="tiny").load(CPU)
    assert full.network.scale_factor == full.patch_size
    assert full.pixel_map(image[..., :8, :16]).shape == (1, 96, 8, 16)


def test_unknown_and_incomplete_baselines_are_refused(tmp_path: Path):
    with pytest.raises(
        LilaError, match=r"expected a baseline, one of anyup, enlarged, .*or the path of a \.py file, found nosuch"
    ):
        ModelSpec(baseline="nosuch").heads()
    with pytest.raises(LilaError, match=r"an encoder for --baseline enlarged, found none"):
        ModelSpec(baseline="enlarged").identity()
    with pytest.raises(LilaError, match=r"expected --baseline NAME beside --baseline-repo"):
        ModelSpec(encoder="tiny", baseline_repo=tmp_path)
    with pytest.raises(LilaError, match="expected one model to score, found two"):
        ModelSpec(weights=tmp_path / "a.safetensors", baseline="featup")


def test_the_command_scores_a_baseline_beside_its_encoder(tmp_path: Path):
    words = ["eval", "davis-knn@lila", "--data", write_davis(tmp_path / "davis", ("one",), count=4), "--short-side", 48]
    words += ["--baseline", "enlarged-2", "--encoder", "tiny", "--out", tmp_path / "out", "--device", "cpu"]
    shown = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert shown.exit_code == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert list(result["scores"]) == ["encoder", "enlarged-2"]
    (table,) = tables([result])
    assert [row.model for row in table.rows if row.source == "measured"] == ["tiny", "tiny + enlarged-2"]


def clone_at(name: str) -> Path:
    """Return the folder of a real clone, from `$LILA_CLONES`; the test is skipped where there is none."""
    repository = str(find(name).repository)
    root = Path(os.environ.get("LILA_CLONES", "clones"))
    folders = [path for path in sorted(root.glob("*")) if path.name.lower() == repository.split("/")[-1].lower()]
    if not folders:
        pytest.skip(f"no clone of {repository} in {root}; set LILA_CLONES to a folder of clones")
    return folders[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if find(name).repository and find(name).build])
@pytest.mark.filterwarnings("default")
def test_the_real_code_gives_a_map_of_the_pixels(name: str):
    encoder = find(name).encoder if name == "vit-up" else "vit_small_patch14_dinov2"
    options = BaselineOptions(encoder, "random:1", clone_at(name), "random:2")
    model = find(name).load(options, CPU)
    images = torch.rand(1, 3, 9 * model.patch_size, 10 * model.patch_size)
    features = feature_map(model, name)(images)
    assert features.shape == (1, 128 if name == "flowfeat" else 384, *images.shape[2:])
    assert features.isfinite().all()


def own_uplift(model, images):
    network = import_module("uplift.hub_loader").load_model("dinov2-s14", pretrained=False, include_extractor=False)
    network.load_state_dict(model.network.state_dict(), strict=True)
    network.enable_iterative(4)
    return network.eval()(normalized(images), model.encoder.grid(images))


def own_uplift_fast(model, images):
    plain = import_module("uplift.hub_loader").load_model("dinov2-s14", pretrained=False, include_extractor=False)
    plain.enable_iterative(4)
    network = import_module("uplift.fast")._OptimizedUPLiFT(plain, CPU)
    network.model.load_state_dict(model.network.model.state_dict(), strict=True)
    return network(normalized(images), model.encoder.grid(images))


def own_vit_up(model, images):
    module = import_module("vit_up.inference.vit_up_wrapper")
    wrapper = module.ViTUpWrapper.__new__(module.ViTUpWrapper)
    nn.Module.__init__(wrapper)
    settings = {"device": "cpu", "device_type": "cpu", "use_bfloat16": False, "dtype": torch.float32}
    vars(wrapper).update(settings, hidden_layer_img_size=448, query_chunk_size=None)
    wrapper.backbone, wrapper.vit_up = model.network["backbone"], model.network["vit_up"]
    centers = import_module("vit_up.utils.grid_coords").build_regular_grid_centers_xy(images.shape[-1])
    return wrapper(normalized(images), centers.flatten(0, 1)[None]).mT.unflatten(2, images.shape[2:])


def own_vjepa(model, images):
    encoder, _ = import_module("src.hub.backbones").vjepa2_1_vit_base_384(pretrained=False)
    encoder.load_state_dict(model.network.state_dict(), strict=True)
    return encoder.eval()(normalized(images)[:, :, None]).mT.unflatten(2, (2, 2))


def own_lingbot(model, images):
    extract = import_module("lingbot_vision").extract_patch_tokens
    tokens, grid = extract(model.network, normalized(images), "cpu", torch.float32)
    return tokens.mT.unflatten(2, grid)


OWN = {
    "uplift": own_uplift,
    "uplift-fast": own_uplift_fast,
    "vit-up": own_vit_up,
    "vjepa2-1": own_vjepa,
    "lingbot-vision": own_lingbot,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
@pytest.mark.filterwarnings("default")
@torch.no_grad()
def test_the_features_are_those_of_the_repository_s_own_call(name: str):
    clone, encoder = clone_at(name), find(name).encoder
    options = BaselineOptions(encoder, encoder and "random:1", clone, "random:2")
    model = find(name).load(options, CPU)
    images = torch.rand(1, 3, 2 * model.patch_size, 2 * model.patch_size)
    call = find(name).call
    found = model.encoder_grid(images) if call is None else call(model.network, model.encoder, images)
    with importable(clone):
        own = OWN[name](model, images)
    assert found.shape == own.shape
    assert found.std() > 1e-3
    torch.testing.assert_close(found, own, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@torch.no_grad()
def test_vit_up_s_backbone_has_the_weights_of_the_encoder():
    model = find("vit-up").load(BaselineOptions("dinov3_vits16plus", "random:1", clone_at("vit-up"), "random:2"), CPU)
    images = torch.rand(1, 3, 64, 64)  # whose adapters begin as nothing
    tokens = model.network["backbone"](normalized(images))[-1].movedim(-1, 1)
    torch.testing.assert_close(tokens, model.encoder_grid(images), atol=1e-4, rtol=1e-4)


def test_hidden_files_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    options = BaselineOptions(baseline_weights=tmp_path)
    identity = options.weights_identity()
    assert list(identity["baseline_weights_sha256"]) == ["model.safetensors"]
    (tmp_path / ".DS_Store").touch()
    (tmp_path / ".cache.d").mkdir()
    assert options.weights_identity() == identity
