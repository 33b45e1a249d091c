"""The checkpoints that the paper's authors have published: their names here, where they lie, which encoder each is for.

Their hashes are not published. The hash of a download is kept beside the file, and a file that no longer has it is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lila_cues.networks.hub import download, torch_cache
from lila_cues.networks.weights import file_sha256
from stores.errors import LilaError

PLACE = "https://storage.googleapis.com/gresearch/lila-ckpts"


@dataclass(frozen=True)
class Published:
    """A published file and the name of the encoder that it decodes."""

    file: str
    encoder: str

    @property
    def url(self) -> str:
        return f"{PLACE}/{self.file}"


PUBLISHED = {
    "lila_dinov2_vits14": Published("lila_dino2_s14_ytvos.pt", "dinov2_vits14"),
    "lila_dinov2_vitb14": Published("lila_dino2_b14_ytvos.pt", "dinov2_vitb14"),
    "lila_dinov2_vitl14": Published("lila_dino2_l14_ytvos.pt", "dinov2_vitl14"),
    "lila_dinov2_vitl14_kts": Published("lila_dino2_l14_kts.pt", "dinov2_vitl14"),
}
ENCODERS = {384: "dinov2_vits14", 768: "dinov2_vitb14", 1024: "dinov2_vitl14", 1536: "dinov2_vitg14"}
"""By embedding width: the encoder of a file of that naming which comes without a name."""


def obtain(name: str) -> Path:
    """The published file of that name in PyTorch's cache, downloaded if it is not there yet."""
    found = PUBLISHED[name]
    path = torch_cache() / found.file
    if not path.is_file():
        download(found.url, path, "put the file there", progress=True)
        _record(path).unlink(missing_ok=True)
    _check(path)
    return path


def _check(path: Path) -> None:
    """Compare with the hash of the download; a file that was put there by hand is taken as it is, once."""
    found, record = file_sha256(path), _record(path)
    if not record.is_file():
        record.write_text(f"{found}\n")
        return
    recorded = record.read_text().strip()
    if found != recorded:
        raise LilaError(
            f"expected {path} to be as it was downloaded, SHA-256 {recorded[:16]}…, found {found[:16]}…; delete "
            f"both it and {record.name} to download it again"
        )


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
