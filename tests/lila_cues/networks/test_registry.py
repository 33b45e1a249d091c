"""The table of networks, against the libraries that it names; lazy imports; how networks are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import huggingface_hub
import pytest
import timm

import lila_cues.networks
from lila_cues.cli import plan
from lila_cues.config import PROFILES
from lila_cues.networks import Execution, registry
from stores.errors import LilaError


@pytest.mark.parametrize("network", [n for n in registry.ENTRIES if n.architecture and n.kind == registry.ENCODER])
def test_encoders_have_the_repository_and_license_that_timm_states(network: registry.Entry) -> None:
    settings = timm.get_pretrained_cfg(network.architecture)
    assert settings is not None
    assert (settings.hf_hub_id, settings.license) == (network.place, network.licence)


def test_flow_weights_are_those_of_torchvision() -> None:
    from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights

    for name, weights in (("raft_small", Raft_Small_Weights), ("raft_large", Raft_Large_Weights)):
        known = registry.entry(registry.FLOW, name)
        assert known is not None
        assert known.place == weights.DEFAULT.url


def test_tables_list_every_network_and_profile(capsys: pytest.CaptureFixture[str]) -> None:
    plan.models()
    plan.profiles()
    printed = capsys.readouterr().out
    for network in registry.ENTRIES:
        assert re.search(rf"^{network.kind} +{network.name} +.* {network.licence} +(yes|no) ", printed, re.MULTILINE)
    for name in PROFILES:
        assert f"--profile {name}:" in printed


def test_table_shows_which_weights_are_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    known = registry.entry(registry.FLOW, "raft_large")
    assert known is not None
    plan.models()
    assert re.search(r" 21 +bsd-3-clause +no +download", capsys.readouterr().out)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / Path(known.place).name).touch()
    plan.models()
    assert re.search(r" 21 +bsd-3-clause +yes +download", capsys.readouterr().out)


def test_table_shows_pinned_commits_and_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    by_name = {(known.kind, known.name): known.origin() for known in registry.ENTRIES}
    assert by_name["encoder", "dinov2_vits14"].endswith(" at 4610ca143709, SHA-256 04d27f34")
    assert by_name["encoder", "dinov2_vitg14"].endswith(" at main")  # not pinned
    assert by_name["flow", "raft_small"].endswith("raft_small_C_T_V2-01064c6d, SHA-256 01064c6d")
    assert all(re.fullmatch("[0-9a-f]{40}", commit) and len(sha256) == 64 for commit, sha256 in registry.PINS.values())
    assert registry.PINS.keys() <= {known.place for known in registry.ENTRIES}


def test_table_shows_the_cached_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lila_cues.networks import hub

    monkeypatch.setattr(hub, "cached", lambda repository, filename: tmp_path / "c0ffee" / filename)
    known = registry.entry(registry.ENCODER, "dinov2_vitb14")
    assert known is not None
    assert known.origin() == "timm/vit_base_patch14_dinov2.lvd142m at c0ffee, SHA-256 55cbb5d8"


def test_table_shows_a_revision_of_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    plan.models()
    rows = capsys.readouterr().out.splitlines()[1 : 1 + len(registry.ENTRIES)]
    for network, row in zip(registry.ENTRIES, rows, strict=True):
        assert re.search(rf"^{network.kind} .* at [^\s,]+(, SHA-256 [0-9a-f]{{8}})?$", row), network.name


def test_listing_networks_does_not_import_torch() -> None:
    """A command line that answers at once."""
    script = "import sys, lila_cues.config, lila_cues.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("package", [lila_cues, lila_cues.networks])
def test_packages_resolve_their_public_names_only(package: ModuleType) -> None:
    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = package.nonsense


LIGHT = """
import sys, lila_cues.images, lila_cues.networks as networks
assert all(getattr(networks, name) for name in networks.__all__)
print(*{"av", "cv2", "jinja2", "matplotlib", "rich", "scipy", "transformers", "typer", "zarr"} & set(sys.modules))
"""


def test_networks_and_images_import_no_library_of_one_network() -> None:
    """They are what `torch.hub.load` imports: OpenCV, transformers and the like are imported where they are used."""
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_execution_checks_its_settings() -> None:
    with pytest.raises(LilaError, match="precision among float32, bfloat16, float16, found int8"):
        Execution("int8")


COMPILED = """
import torch
from lila_cues.networks import Execution, load_depth, load_encoder, load_flow
first, second = torch.rand(2, 1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
def run(compiled):
    how = Execution(compiled=compiled)
    yield load_encoder("tiny", "random:1", execution=how).grid(first[..., :112, :112])
    yield load_depth("tiny", "random:1", execution=how)(first)
    yield load_flow("raft_small", "random:1", updates=1, execution=how)(first, second)
for eager, compiled in zip(run(False), run(True), strict=True):
    torch.testing.assert_close(compiled, eager, atol=1e-2, rtol=1e-3)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_equals_eager() -> None:
    """In a subprocess: the shape checks of the test run cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
