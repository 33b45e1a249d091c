"""Encodings of each cue: size, speed and error, one thread. The defaults of `stores.spec` are chosen from this table.

python -m tests.benchmarks.store_encodings
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numcodecs import blosc

from stores.encodings import Blosc, Cast, Encoding, FixedPoint, decode, encode
from stores.spec import DEPTH, FEATURES, FLOW, RGB, RGB_CODECS
from tests.benchmarks import figures
from tests.benchmarks.figures import Quantity
from tests.benchmarks.store_cues import cues

SIZE = Quantity("default encoding: size, of the cue as float32 (rgb: 8 bit)", "×")
ERROR = Quantity("default encoding: rms error, of the cue's deviation", "×")
FIGURES = (SIZE, ERROR)
REPEATS = 3


class Differences(Blosc):
    """Differences of neighboring values along x before compression: the codec `numcodecs.delta`.

    zarr-python reads it; tensorstore and zarrs do not know it.
    """

    def encode(self, chunk: np.ndarray) -> bytes:
        return super().encode(np.diff(chunk.ravel(), prepend=chunk.dtype.type(0)))

    def decode_into(self, encoded: np.ndarray, chunk: np.ndarray) -> None:
        super().decode_into(encoded, chunk)
        np.cumsum(chunk.ravel(), dtype=chunk.dtype, out=chunk.ravel())


LZ4, ZSTD = Blosc("lz4", 5, "shuffle"), Blosc("zstd", 3, "shuffle")
CANDIDATES: dict[str, list[tuple[str, Encoding]]] = {
    "rgb": [
        ("default", RGB),
        ("blosc's own blocks", replace(RGB, codec=replace(RGB.codec, block=0))),
        ("bitshuffle", replace(RGB, codec=replace(RGB.codec, shuffle="bitshuffle"))),
        ("zstd 1", replace(RGB, codec=replace(RGB.codec, level=1))),
        ("lz4", replace(RGB, codec=replace(LZ4, shuffle="noshuffle"))),
        ("JPEG", RGB_CODECS["jpeg"]),
    ],
    "rgb 256": [("default", RGB), ("JPEG", RGB_CODECS["jpeg"])],
    "depth": [
        ("default", DEPTH),
        ("float32", Cast("float32", ZSTD)),
        ("byte shuffle", replace(DEPTH, codec=ZSTD)),
        ("steps of 1/64", FixedPoint(1 / 64, "int16", replace(ZSTD, shuffle="bitshuffle"))),
        ("lz4", replace(DEPTH, codec=replace(LZ4, shuffle="bitshuffle"))),
    ],
    "flow": [
        ("default", FLOW),
        ("float32", Cast("float32", ZSTD)),
        ("float16", Cast("float16", ZSTD)),
        ("float16, lz4", Cast("float16", LZ4)),
        ("blosc's own blocks", replace(FLOW, codec=replace(FLOW.codec, block=0))),
        ("steps of 1/16", replace(FLOW, step=1 / 16)),
        ("lz4", replace(FLOW, codec=LZ4)),
    ],
    "features": [
        ("default", FEATURES),
        ("float16", Cast("float16", ZSTD)),
        ("one step for all, 1/4", FixedPoint(1 / 4, "int8", replace(ZSTD, shuffle="bitshuffle"))),
        ("zstd 3", replace(FEATURES, codec=replace(ZSTD, shuffle="bitshuffle"))),
        ("zstd 9", replace(FEATURES, codec=Blosc("zstd", 9, "bitshuffle"))),
        ("zstd 3, no shuffle", replace(FEATURES, codec=replace(ZSTD, shuffle="noshuffle"))),
        ("differences", replace(FEATURES, codec=Differences("zstd", 1, "noshuffle"))),
        ("lz4", replace(FEATURES, codec=replace(LZ4, shuffle="noshuffle"))),
    ],
    "features 56": [("default", FEATURES)],
    "features_raw": [("default", FEATURES)],
}


@dataclass(frozen=True)
class Measured:
    """kB per frame or pair, its share of the stored array's bytes and of the cue's own; ms to encode and decode one.

    The largest error, the root of the mean of its squares in deviations of the cue, and the share that became NaN.
    """

    kb: float
    of_stored: float
    of_cue: float
    encode_ms: float
    decode_ms: float
    largest: float
    typical: float
    lost: float

    def cells(self) -> list[str]:
        sizes = f"{self.kb:.1f}", f"{self.of_stored:.2f}"
        speeds = f"{self.encode_ms:.2f}", f"{self.decode_ms:.2f}"
        typical = f"{self.typical:.2%}" + (f", {self.lost:.1%} lost" if self.lost else "")
        return [*sizes, *speeds, f"{self.largest:.4f}", typical]


def measure(maps: np.ndarray, encoding: Encoding) -> Measured:
    """Measure one encoding on the maps of a cue, one after the other."""
    encode_s, decode_s = [], []
    for _ in range(REPEATS):
        start = time.process_time()
        stored = [encode(encoding, each) for each in maps]
        arrays = [each[0] for each in stored]
        encoded_chunks = [encoding.codec.encode(each) for each in arrays]
        encode_s.append(time.process_time() - start)
        start = time.process_time()
        chunks = [
            _decompressed(encoding, payload, array) for payload, array in zip(encoded_chunks, arrays, strict=True)
        ]
        decode_s.append(time.process_time() - start)
        decoded = [decode(encoding, chunk, scales) for chunk, (_, scales) in zip(chunks, stored, strict=True)]
    size = float(np.mean([len(payload) for payload in encoded_chunks]))
    error = np.stack(decoded).astype(np.float64) - maps
    return Measured(
        kb=size / 1e3,
        of_stored=size / arrays[0].nbytes,
        of_cue=size / maps[0].nbytes,
        encode_ms=min(encode_s) / len(maps) * 1e3,
        decode_ms=min(decode_s) / len(maps) * 1e3,
        largest=float(np.nanmax(np.abs(error))),
        typical=float(np.sqrt(np.nanmean(error**2)) / maps.std()),
        lost=float(np.isnan(error).mean()),
    )


def _decompressed(encoding: Encoding, payload: bytes, like: np.ndarray) -> np.ndarray:
    chunk = np.empty(like.shape, like.dtype)  # in C order, as stored, whatever the order of `like`
    encoding.codec.decode_into(payload, chunk)
    return chunk


def main() -> None:
    """Print the table."""
    options = figures.parser(__doc__).parse_args()
    blosc.use_threads = False
    origin, maps = cues()
    print(f"Encodings per frame or pair, one thread, {origin}")
    heads = ["kB", "of stored", "encode ms", "decode ms", "max error", "rms/dev."]
    print(f"{'cue':13}{'encoding':24}" + "".join(f"{head:>11}" for head in heads))
    found = []
    for name, candidates in CANDIDATES.items():
        for label, encoding in candidates if name in maps else ():
            measured = measure(maps[name], encoding)
            print(f"{name:13}{label:24}" + "".join(f"{cell:>11}" for cell in measured.cells()), flush=True)
            if label == "default":
                found += [SIZE.figure(measured.of_cue, name), ERROR.figure(measured.typical, name)]
    figures.hand_back(options.figures, FIGURES, found)


if __name__ == "__main__":
    main()
