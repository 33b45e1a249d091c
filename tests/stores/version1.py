"""Stores in version 1 of the format, as the first release wrote them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import stores
from stores.encodings import CHECKSUM_BYTES, canonical_json, crc32c
from stores.metadata import ROOT_COPY_KEY, ROOT_KEY


def downgrade(store: stores.CueStore) -> Path:
    """Rewrite a store as version 1; return its folder."""
    root, header, names = (
        Path(store.path),
        replace(store.header, version=1),
        "".join(f"{store.clip_id(clip)}\n" for clip in range(store.n_clips)).encode(),
    )
    body = {
        "format": "lila-cue-store",
        "version": 1,
        "spec": header.spec.to_dict(),
        "clips": {"count": store.n_clips, "names_crc32c": crc32c(names), "offsets_crc32c": 0},
        "fingerprint": header.fingerprint,
        "provenance": header.provenance,
    }
    document = json.loads((root / ROOT_KEY).read_text())
    document["attributes"] = {"lila": {**body, "crc32c": crc32c(canonical_json(body))}}
    for key in (ROOT_KEY, ROOT_COPY_KEY):
        (root / key).write_text(json.dumps(document))
    shutil.rmtree(root / "clip_name")
    (root / "clips/names.txt").write_bytes(names)
    for task in range(store.n_tasks):
        record = store.ledger.latest(task)
        assert record is not None
        document = json.loads((root / record.key).read_text())["record"] | {"fingerprint": header.digest}
        del document["names"], document["shard_crc32c"]
        for name, spec in store.arrays.items():
            path, index = root / spec.shard_key(task), store.spec.shard_clips * spec.clip_chunks * 16 + CHECKSUM_BYTES
            data = path.read_bytes()
            path.write_bytes(data[: -index - CHECKSUM_BYTES] + data[-index:])
            document["shard_bytes"][name] -= CHECKSUM_BYTES
        content = {"record": document, "crc32c": crc32c(canonical_json(document))}
        (root / record.key).write_bytes(canonical_json(content))
    return root
