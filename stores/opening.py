"""Create a store, or open the one that exists if it was created with the same settings."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from stores import locks, metadata
from stores.atomic import explain_os_errors, require_local, sync_to_disk
from stores.config import differences
from stores.encodings import canonical_json, crc32c, with_checksum
from stores.errors import StoreError
from stores.ledger import folders, remove_leftovers, writer_id
from stores.metadata import Header, encode_clip_names
from stores.repair import sweep
from stores.spec import StoreSpec
from stores.store import CueStore, open

log = logging.getLogger(__name__)


class _ExistsError(StoreError):
    pass


def create(
    path: Path | str, spec: StoreSpec, clips: Sequence[str], fingerprint: dict[str, Any], provenance: dict[str, Any]
) -> CueStore:
    """Create a store at `path` for the named clips, all of them absent; on an error nothing is created.

    Args:
        fingerprint: all settings that determine the data; converted to JSON.
        provenance: any other information about the data; converted to JSON.
    """
    root = Path(path)
    require_local(root)
    exists = _ExistsError(f"{root} exists; open it to continue, or name another place for the new store")
    if root.exists():
        raise exists
    if not clips:
        raise StoreError(f"no clips were given for the store {root}; name a source that has some")
    names = encode_clip_names(clips)
    recorded = [json.loads(canonical_json(document)) for document in (fingerprint, provenance)]
    header = Header(spec, len(names), names.itemsize, crc32c(names.tobytes()), *recorded)
    files = header.documents()
    files[metadata.NAMES_KEY] = with_checksum(names.tobytes())
    files[metadata.ROOT_COPY_KEY] = files[metadata.ROOT_KEY]
    files[metadata.STATUS_KEY] = with_checksum(bytes(len(clips)))
    prefix = f".{root.name}.new-"
    remove_leftovers(root.parent.glob(f"{escape(prefix)}*:[0-9]*"))  # drafts of killed builders
    draft = root.with_name(prefix + writer_id())
    with explain_os_errors(root.parent, f"creating the store {root.name}"):
        try:
            draft.mkdir(parents=True, exist_ok=True)
            (draft / metadata.LOCKS).touch()
            locks.holder(draft / metadata.LOCKS, 0)  # StoreError where there are no locks
            for key, data in files.items():
                path = draft / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                sync_to_disk(path)
                sync_to_disk(path.parent)
            for folder in (metadata.SCRATCH, *folders(-(-len(clips) // spec.shard_clips))):
                (draft / folder).mkdir(parents=True)
            draft.rename(root)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise exists from error  # since another builder was faster
            raise
        sync_to_disk(root.parent)
    return open(root)


def open_or_create(
    path: Path | str, spec: StoreSpec, clips: Sequence[str], fingerprint: dict[str, Any], provenance: dict[str, Any]
) -> CueStore:
    """Open the store at `path`, or create it; StoreError, with the differences, if its settings are others.

    Of several builders that start it at once, one creates the store and the others open it.
    """
    with contextlib.suppress(_ExistsError):
        return create(path, spec, clips, fingerprint, provenance)
    store = open(path)
    require_same(store, fingerprint, clips, spec)
    store.locked_by(0)  # StoreError where there are no locks
    sweep(store)
    return store


def require_same(
    store: CueStore, fingerprint: dict[str, Any], clips: Sequence[str], spec: StoreSpec | None = None
) -> None:
    """Raise StoreError, with the differences, if a store has other settings, another spec, or not all of the clips.

    Clips that are no longer requested stay in the store.
    """
    store.require_current()
    requested = json.loads(canonical_json(fingerprint))
    changes = differences({key: store.fingerprint.get(key) for key in requested}, requested, "settings")
    if spec is not None:
        changes += differences(store.spec.to_dict(), spec.to_dict(), "spec")
    if crc32c(encode_clip_names(clips).tobytes()) != store.header.names_crc32c:
        stored = [store.clip_id(clip) for clip in range(store.n_clips)]
        added, gone = sorted({*clips} - {*stored}), sorted({*stored} - {*clips})
        if added:
            changes.append(
                f"clips: {len(added)} are not in the store ({', '.join(added[:3])}{', …' * (len(added) > 3)})"
            )
        elif gone:  # a file that failed was taken away, for example
            log.info("no longer there: %d clips of the store (%s …); they stay as they are", len(gone), gone[0])
        else:
            changes.append("clips: in another order")
    if changes:
        raise StoreError(
            f"{store.path} was built with other settings: {'; '.join(changes)}; use the store's settings to continue, "
            "or name another store"
        )
