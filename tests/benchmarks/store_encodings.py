"""Encodings of each cue: size, speed and error, one thread. The defaults of `stores.spec` are chosen from this table.

python -m tests.benchmarks.store_encodings
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numcodecs import blosc

from stores.codecs import Blosc, decode_into
from stores.encodings import Encoding, Plain, Rows, Steps
from stores.spec import DEPTH, FEATURES, FLOW, RGB
from tests.benchmarks.store_cues import cues

REPEATS = 3
LZ4, ZSTD = Blosc("lz4", 5, "shuffle"), Blosc("zstd", 3, "shuffle")
CANDIDATES: dict[str, list[tuple[str, Encoding]]] = {
    "rgb": [
        ("default", RGB),
        ("blosc's own blocks", replace(RGB, codec=replace(RGB.codec, block=0))),
        ("bitshuffle", replace(RGB, codec=replace(RGB.codec, shuffle="bitshuffle"))),
        ("zstd 1", replace(RGB, codec=replace(RGB.codec, level=1))),
        ("lz4", replace(RGB, codec=replace(LZ4, shuffle="noshuffle"))),
    ],
    "depth": [
        ("default", DEPTH),
        ("float32", Plain("float32", ZSTD)),
        ("byte shuffle", replace(DEPTH, codec=ZSTD)),
        ("steps of 1/64", Steps(1 / 64, "int16", replace(ZSTD, shuffle="bitshuffle"))),
        ("lz4", replace(DEPTH, codec=replace(LZ4, shuffle="bitshuffle"))),
    ],
    "flow": [
        ("default", FLOW),
        ("float32", Plain("float32", ZSTD)),
        ("float16", Plain("float16", ZSTD)),
        ("float16, lz4", Plain("float16", LZ4)),
        ("blosc's own blocks", replace(FLOW, codec=replace(FLOW.codec, block=0))),
        ("steps of 1/16", replace(FLOW, step=1 / 16)),
        ("lz4", replace(FLOW, codec=LZ4)),
    ],
    "features": [
        ("default", FEATURES),
        ("float16", Plain("float16", ZSTD)),
        ("one step for all, 1/4", Steps(1 / 4, "int8", replace(ZSTD, shuffle="bitshuffle"))),
        ("zstd 3, no shuffle", replace(FEATURES, codec=replace(ZSTD, shuffle="noshuffle"))),
        ("lz4", replace(FEATURES, codec=replace(LZ4, shuffle="noshuffle"))),
    ],
}


def measure(maps: np.ndarray, encoding: Encoding) -> list[str]:
    """kB per frame, share of the raw bytes, ms to encode and decode one, largest and typical error."""
    encode_s, decode_s = [], []
    for _ in range(REPEATS):
        start = time.process_time()
        stored = [encoding.encode(each) for each in maps]
        arrays = [each[0] if isinstance(each, tuple) else each for each in stored]
        payloads = [encoding.codec.encode(each) for each in arrays]
        encode_s.append(time.process_time() - start)
        start = time.process_time()
        chunks = [_decompressed(payload, array) for payload, array in zip(payloads, arrays, strict=True)]
        decode_s.append(time.process_time() - start)
        decoded = [
            encoding.decode(chunk, each[1]) if isinstance(encoding, Rows) else encoding.decode(chunk)
            for chunk, each in zip(chunks, stored, strict=True)
        ]
    size = float(np.mean([len(payload) for payload in payloads]))
    error = np.stack(decoded).astype(np.float64) - maps
    missing = np.isnan(error).mean()
    return [
        f"{size / 1e3:.1f}",
        f"{size / arrays[0].nbytes:.2f}",
        f"{min(encode_s) / len(maps) * 1e3:.2f}",
        f"{min(decode_s) / len(maps) * 1e3:.2f}",
        f"{np.nanmax(np.abs(error)):.4f}",
        f"{np.sqrt(np.nanmean(error**2)) / maps.std():.2%}" + (f", {missing:.1%} lost" if missing else ""),
    ]


def _decompressed(payload: bytes, like: np.ndarray) -> np.ndarray:
    chunk = np.empty_like(like)
    decode_into(np.frombuffer(payload, np.uint8), chunk)
    return chunk


def main() -> None:
    """Print the table."""
    blosc.use_threads = False
    origin, maps = cues()
    print(f"Encodings per frame or pair, one thread, {origin}")
    heads = ["kB", "of stored", "encode ms", "decode ms", "max error", "rms/dev."]
    print(f"{'cue':10}{'encoding':24}" + "".join(f"{head:>11}" for head in heads))
    for name, candidates in CANDIDATES.items():
        for label, encoding in candidates:
            cells = measure(maps[name], encoding)
            print(f"{name:10}{label:24}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
