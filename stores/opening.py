"""Making a store and opening one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stores import atomic, ledger, metadata
from stores import metadata as clip_list
from stores.backends import Files, LocalFiles
from stores.encodings import with_checksum
from stores.errors import StoreError
from stores.metadata import Header
from stores.spec import StoreSpec
from stores.store import CueStore


def create(
    path: Path | str,
    spec: StoreSpec,
    clips: Sequence[str],
    fingerprint: dict[str, Any],
    provenance: dict[str, Any],
) -> CueStore:
    """A new store at `path` for the named clips, none of them there yet; it appears whole or not at all.

    `fingerprint` is everything that shapes the data, `provenance` whatever else is worth knowing; both go through JSON.
    """
    root = Path(path)
    if root.exists():
        raise StoreError(f"{root} exists; open it to go on, or name another place for the new store")
    if not clips:
        raise StoreError(f"no clips were given for the store {root}; name a source that has some")
    names, offsets = clip_list.encode_names(clips)
    header = Header(
        spec, len(clips), clip_list.describe(names, offsets), _through_json(fingerprint), _through_json(provenance)
    )
    files = {clip_list.NAMES_KEY: names, clip_list.OFFSETS_KEY: offsets}
    files |= {key: metadata.encode_document(document) for key, document in header.documents().items()}
    files[metadata.ROOT_COPY_KEY] = files[metadata.ROOT_KEY]
    files[metadata.STATUS_KEY] = with_checksum(bytes(len(clips)))
    draft = root.with_name(f".{root.name}.new-{ledger.signature()}")
    with atomic.writing(root.parent, f"creating the store {root.name}"):
        root.parent.mkdir(parents=True, exist_ok=True)
        _write_all(draft, files)
        draft.rename(root)
        atomic.sync_folder(root.parent)
    return open(root)


def open(path: Path | str) -> CueStore:  # `stores.open` is the name that callers see
    """The store in a folder, or at an s3://, gs://, http:// or https:// URL (read-only)."""
    files = _files(path)
    return CueStore(files, metadata.parse(_read_root(files), files.location))


def open_or_create(
    path: Path | str,
    spec: StoreSpec,
    clips: Sequence[str],
    fingerprint: dict[str, Any],
    provenance: dict[str, Any],
) -> CueStore:
    """The store at `path`, made if there is none; refused, with what differs, if it was made for something else."""
    if not Path(path).exists():
        return create(path, spec, clips, fingerprint, provenance)
    store = open(path)
    names, offsets = clip_list.encode_names(clips)
    found = {"spec": store.spec.to_dict(), "settings": store.fingerprint}
    asked = {"spec": spec.to_dict(), "settings": _through_json(fingerprint)}
    changes = differences(found, asked)
    if store.header.clip_checksums != clip_list.describe(names, offsets):
        changes.append(f"clips: {store.n_clips} in the store, {len(clips)} asked for, or other names")
    if changes:
        raise StoreError(
            f"{path} was built with other settings: {'; '.join(changes)}; use the store's settings to go on, or name "
            "another store"
        )
    return store


def differences(found: Any, asked: Any, name: str = "") -> list[str]:
    """Where two JSON documents differ, one phrase for each place."""
    if isinstance(found, dict) and isinstance(asked, dict):
        keys = sorted({*found, *asked})
        return [
            line
            for key in keys
            for line in differences(found.get(key), asked.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if found == asked else [f"{name}: {_briefly(found)} in the store, {_briefly(asked)} asked for"]


def _briefly(value: Any) -> str:
    """A value in a message; of a list of things that have names, those."""
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        return ", ".join(str(each["name"]) for each in value)
    return repr(value)


def _files(path: Path | str) -> Files:
    if "://" in str(path):
        from stores.backends import RemoteFiles

        return RemoteFiles(str(path))
    return LocalFiles(Path(path))


def _read_root(files: Files) -> bytes:
    try:
        return files.read(metadata.ROOT_KEY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            f"no cue store at {files.location}: a folder with {metadata.ROOT_KEY} was expected; "
            "name the folder that `lila-cues build` wrote"
        ) from error
    except PermissionError as error:
        raise StoreError(
            f"{files.location}/{metadata.ROOT_KEY} may not be read by this user; change its permissions"
        ) from error


def _through_json(document: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(atomic.canonical(document))
    return result


def _write_all(draft: Path, files: dict[str, bytes]) -> None:
    try:
        for key, data in files.items():
            target = draft / key
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic.publish(data, target, target.with_name(target.name + ".new"))
        (draft / metadata.CLAIMS).touch()
        (draft / metadata.SCRATCH).mkdir()
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
