"""The weight files that the paper's authors have released: their names here, where they lie, the encoder of each.

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
class ReleasedFile:
    """The name of a released file, and of the encoder that it decodes."""

    file: str
    encoder: str

    @property
    def url(self) -> str:
        """Where its authors keep it."""
        return f"{PLACE}/{self.file}"


RELEASED_FILES = {
    "lila_dinov2_vits14": ReleasedFile("lila_dino2_s14_ytvos.pt", "dinov2_vits14"),
    "lila_dinov2_vitb14": ReleasedFile("lila_dino2_b14_ytvos.pt", "dinov2_vitb14"),
    "lila_dinov2_vitl14": ReleasedFile("lila_dino2_l14_ytvos.pt", "dinov2_vitl14"),
    "lila_dinov2_vitl14_kts": ReleasedFile("lila_dino2_l14_kts.pt", "dinov2_vitl14"),
}
ENCODER_OF_WIDTH = {384: "dinov2_vits14", 768: "dinov2_vitb14", 1024: "dinov2_vitl14", 1536: "dinov2_vitg14"}
"""By embedding width: the encoder of a file of that naming which comes without a name."""


def obtain(name: str) -> tuple[Path, str]:
    """The released file of that name in PyTorch's cache, downloaded if it is not there yet, and its hex SHA-256.

    Raises LilaError where it cannot be downloaded, or is not any more what it was when it came.
    """
    found = RELEASED_FILES[name]
    path = torch_cache() / found.file
    if not path.is_file():
        download(found.url, path, "put the file there", progress=True)
        _record(path).unlink(missing_ok=True)
    return path, _checked(path)


def _checked(path: Path) -> str:
    """The file's hash, compared with that of the download; a file put there by hand is taken as it is, once."""
    found, record = file_sha256(path), _record(path)
    if not record.is_file():
        record.write_text(f"{found}\n")
        return found
    recorded = record.read_text().strip()
    if found != recorded:
        raise LilaError(
            f"expected {path} to be as it was downloaded, SHA-256 {recorded[:16]}…, found {found[:16]}…; delete "
            f"both it and {record.name} to download it again"
        )
    return found


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
