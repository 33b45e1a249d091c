"""Settings that shape the features of a file and their pictures."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from stores.config import Config

Format = Literal["npz", "safetensors", "zarr", "pca"]
Size = tuple[int, int]


def _size(value: object) -> object:
    """Check `--size`: a short side, or HxW."""
    text = str(value).replace("×", "x")
    if value is not None and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
        raise ValueError(f"must be a short side in pixels, or HxW such as 480x854, found {value}")
    return value if value is None else text


class FeatureConfig(Config):
    """What shapes the results of `lila-train features`; sizes in pixels."""

    own_options: ClassVar[frozenset[str]] = frozenset(
        ("format", "size", "stride", "tile", "overlap", "every", "max_frames", "precision", "dtype")
    )

    format: Annotated[tuple[Format, ...], Field(min_length=1)] = Field(
        ("zarr", "pca"), description="Formats of the arrays, and pca for pictures."
    )
    size: Annotated[str | None, BeforeValidator(_size)] = Field(
        None, description="Resize to this short side, or to HxW, before the network; none: the input's own size."
    )
    stride: PositiveInt = Field(1, description="Features at 1/N of the height and width: 1/N² of the bytes.")
    tile: PositiveInt | None = Field(None, description="Side of tiles in pixels, to save memory; none: only as needed.")
    overlap: NonNegativeInt | None = Field(
        None, description="Smallest overlap of tiles in pixels; none: a quarter of a tile."
    )
    every: PositiveInt = Field(1, description="Every Nth frame of a video.")
    max_frames: PositiveInt | None = Field(
        None, description="Number of frames of each video, of those kept; none: all."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of the network.")
    dtype: Literal["float16", "float32"] = Field("float16", description="Type of the stored features.")

    def network_size(self, native: Size) -> Size:
        """Return height and width that an image is resized to."""
        from lila_cues.images import short_side_size  # not for a help text: it loads PyTorch

        if self.size is None:
            return native
        height, *width = map(int, self.size.split("x"))
        return (height, width[0]) if width else short_side_size(native, height)

    def map_size(self, size: Size) -> Size:
        """Return height and width of the features of an image that the network sees at `size`."""
        height, width = (max(1, round(side / self.stride)) for side in size)
        return height, width
