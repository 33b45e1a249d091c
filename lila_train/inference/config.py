"""Settings that shape the features of a file and their pictures."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from stores.config import Config

Format = Literal["npz", "safetensors", "zarr", "pca"]


class FeatureConfig(Config):
    """What shapes the results of `lila-train features`; sizes in pixels."""

    own_options: ClassVar[frozenset[str]] = frozenset(
        ("format", "size", "tile", "overlap", "max_frames", "precision", "dtype")
    )

    format: Annotated[tuple[Format, ...], Field(min_length=1)] = Field(
        ("npz", "pca"), description="Of arrays, and pca for pictures; comma-separated, or given more than once."
    )
    size: PositiveInt | None = Field(None, description="Short side in pixels; none: the input's own.")
    tile: PositiveInt | None = Field(None, description="Side of tiles in pixels, to save memory; none: only as needed.")
    overlap: NonNegativeInt | None = Field(
        None, description="Least overlap of tiles in pixels; none: a quarter of a tile."
    )
    max_frames: PositiveInt | None = Field(None, description="Most frames of a video; none: all.")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Of the computation.")
    dtype: Literal["float16", "float32"] = Field("float16", description="Of the arrays.")
