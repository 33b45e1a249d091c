"""Every network that has a short name here: where its weights are, how large they are, and under which license.

Plain data: listing it does not import torch. Sizes are those of the files. Any other plain ViT of timm works as an
encoder by its timm name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lila_cues.networks import hub

ENCODER, DEPTH, FLOW = "encoder", "depth", "flow"
NOT_STATED = "not stated"
PACKAGED = Path(__file__).resolve().parent.parent / "weights"
PINS = {  # by hub repository: commit, and SHA-256 of its model.safetensors
    "timm/vit_small_patch14_dinov2.lvd142m": (
        "4610ca143709d58a633b6397a74412c2c3842454",
        "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
    ),
    "timm/vit_base_patch14_dinov2.lvd142m": (
        "4685c99dabffe5affac90bd99dbffd25801ae58d",
        "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
    ),
    "timm/vit_large_patch14_dinov2.lvd142m": (
        "4741e1cafbf45415e77074bb0cb42dba76c8684a",
        "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
    ),
    "timm/vit_small_patch16_dinov3.lvd1689m": (
        "3bf4720a82ec2066db88137180ff1f83a675cef0",
        "2a1ec16ae28ffa07bc0ead0241ee7df9fc26451fe6f9f839b7b3afa0a906b040",
    ),
    "depth-anything/Depth-Anything-V2-Small-hf": (
        "5426e4f0f36572d16453bbda7a8389317b1bef99",
        "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
    ),
}


@dataclass(frozen=True)
class Entry:
    """One network."""

    kind: str
    name: str
    place: str  # a hub repository, a URL, a file of this package, or the package whose code the method is
    licence: str
    megabytes: int
    architecture: str = ""  # its name in timm or torchvision
    one_licence: bool = True  # whether all weights of this architecture are under that license, so a local file too

    @property
    def is_url(self) -> bool:
        return self.place.startswith("https://")

    @property
    def is_packaged(self) -> bool:
        return self.place.endswith(".safetensors")

    @property
    def non_commercial(self) -> bool:
        """Whether the license of the weights forbids commercial use."""
        return self.licence.startswith("cc-by-nc")

    def is_available(self) -> bool:
        """Whether the weights are on this machine; needs no network."""
        if self.is_url:
            return (hub.torch_cache() / Path(self.place).name).is_file()
        if self.is_packaged:
            return (PACKAGED / self.place).is_file()
        return "/" not in self.place or hub.cached(self.place, "model.safetensors") is not None

    @property
    def pin(self) -> tuple[str | None, str | None]:
        """The hub's commit, and the SHA-256 of the published file or its first digits; None where it is not pinned."""
        if self.is_url:
            return None, Path(self.place).stem.rpartition("-")[2]  # NAME-HASH.pth
        if self.is_packaged:
            return None, str(json.loads((PACKAGED / "tiny.json").read_text())[self.place]["sha256"])
        return PINS.get(self.place, (None, None))

    def origin(self) -> str:
        """Where the weights come from, the version or hub commit, and the first digits of the pinned SHA-256.

        The commit is that of the cached file, else the pinned one, else `main`.
        """
        (commit, sha256), digits = self.pin, ""
        if sha256:
            digits = f", SHA-256 {sha256[:8]}"
        if self.is_url:
            return f"download.pytorch.org at {Path(self.place).stem}{digits}"
        if self.is_packaged:
            return f"in the package at {version('lila-pixels')}{digits}"
        if "/" not in self.place:
            return f"{self.place} at {version(self.place)}"
        path = hub.cached(self.place, "model.safetensors")
        return f"{self.place} at {(path.parent.name if path else commit or 'main')[:12]}{digits}"


def entry(kind: str, name: str) -> Entry | None:
    """Return the network of that kind and short name, or None."""
    return next((known for known in ENTRIES if (known.kind, known.name) == (kind, name)), None)


def names(kind: str) -> list[str]:
    """Return the short names of one kind, in the order of the table."""
    return [known.name for known in ENTRIES if known.kind == kind]


ENTRIES: tuple[Entry, ...] = (
    Entry(ENCODER, "tiny", "tiny_encoder.safetensors", "apache-2.0", 1),
    *(
        Entry(ENCODER, f"dinov2_vit{letter}14{suffix}", f"timm/{timm_name}.lvd142m", "apache-2.0", megabytes, timm_name)
        for suffix, registers in (("", ""), ("_reg", "reg4_"))
        for letter, size, megabytes in (
            ("s", "small", 88), ("b", "base", 346), ("l", "large", 1217), ("g", "giant", 4546),
        )
        for timm_name in (f"vit_{size}_patch14_{registers}dinov2",)
    ),
    *(
        Entry(ENCODER, f"dinov3_{short}", f"timm/{timm_name}.lvd1689m", "dinov3-license", megabytes, timm_name)
        for short, timm_name, megabytes in (
            ("vits16", "vit_small_patch16_dinov3", 86),
            ("vits16plus", "vit_small_plus_patch16_dinov3", 115),
            ("vitb16", "vit_base_patch16_dinov3", 343),
            ("vitl16", "vit_large_patch16_dinov3", 1213),
            ("vith16plus", "vit_huge_plus_patch16_dinov3", 3362),
            ("vit7b16", "vit_7b_patch16_dinov3", 26864),
        )
    ),
    Entry(DEPTH, "tiny", "tiny_depth.safetensors", "apache-2.0", 1),
    *(
        Entry(DEPTH, f"depth_anything_v2_{size.lower()}", f"depth-anything/Depth-Anything-V2-{size}-hf", licence, mb)
        for size, licence, mb in (
            ("Small", "apache-2.0", 99), ("Base", "cc-by-nc-4.0", 390), ("Large", "cc-by-nc-4.0", 1341),
        )
    ),
    Entry(FLOW, "dis", "opencv-python-headless", "apache-2.0", 0),
    *(
        Entry(FLOW, name, f"https://download.pytorch.org/models/{name}_{file}", "bsd-3-clause", megabytes, name, False)
        for name, file, megabytes in (
            ("raft_small", "C_T_V2-01064c6d.pth", 4), ("raft_large", "C_T_SKHT_V2-ff5fadd5.pth", 21),
        )
    ),
)  # fmt: skip
