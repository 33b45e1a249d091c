"""A store over HTTP, in S3 and in memory reads as it does on disk; errors are one sentence."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray
from zarr.storage import ObjectStore

import stores
from stores import StoreError
from stores.backends import LocalFiles, RemoteFiles
from stores.store import CueStore
from tests.stores import worlds
from tests.stores.http_server import serve

FAILED = 5


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    store = worlds.create(tmp_path_factory.mktemp("remote") / "cues.zarr", 10)
    worlds.fill(store, failing=[FAILED])
    store.publish_statuses()
    return store


@pytest.fixture(scope="module")
def server(local: stores.CueStore) -> Iterator[str]:
    with serve(Path(local.path).parent) as url:
        yield url


@pytest.mark.parametrize("kind", ["folder", "FIFO", "socket", "loop of links"])
def test_what_is_no_file_is_missing(tmp_path: Path, kind: str) -> None:
    worlds.put_in_place(kind, tmp_path / "file")
    for read in (lambda files: files.read("file"), lambda files: files.open("file", 10)):
        with pytest.raises(FileNotFoundError, match=rf"a {kind} (or a device )?is in its place"):
            read(LocalFiles(tmp_path))


def assert_same(remote: CueStore, local: CueStore) -> None:
    assert remote.statuses().tolist() == local.statuses().tolist()
    assert remote.clip_id(9) == local.clip_id(9)
    for name in local.arrays:
        np.testing.assert_array_equal(remote.read(name, 6), local.read(name, 6))
    ours, theirs = remote.stored_pair(3, 1), local.stored_pair(3, 1)
    for cue in ("rgb", "depth", "flow_forward", "flow_backward", "features", "features_raw"):
        np.testing.assert_array_equal(getattr(ours, cue), getattr(theirs, cue))


def test_over_http(local: stores.CueStore, server: str) -> None:
    remote = stores.open(f"{server}/cues.zarr")
    assert_same(remote, local)
    assert remote.clip_record(FAILED).status == stores.FAILED


def test_xarray_over_http(local: stores.CueStore, server: str) -> None:
    remote = stores.open(f"{server}/cues.zarr")
    np.testing.assert_array_equal(remote.dask("depth")[2].compute(), local.read("depth", 2))
    dataset = xarray.open_zarr(ObjectStore(remote.files.objects, read_only=True))
    np.testing.assert_array_equal(dataset.depth[2].values, local.read("depth", 2))


def test_in_memory(local: stores.CueStore) -> None:
    from obstore.store import MemoryStore

    objects = MemoryStore()
    root = Path(local.path)
    for path in root.rglob("*"):
        if path.is_file():
            objects.put(str(path.relative_to(root)), path.read_bytes())
    files = RemoteFiles("memory://cues.zarr", objects)
    assert_same(CueStore(files, local.header), local)
    assert CueStore(files, local.header).clip_record(FAILED).reason == f"clip {FAILED} cannot be decoded"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 server of this machine, named by the environment as a real one would be."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[dev]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in names.items():
            environment.setenv(name, value)
        yield "bucket"
    server.stop()


def test_in_s3(local: stores.CueStore, bucket: str) -> None:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    root = Path(local.path)
    for path in root.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"some/where/cues.zarr/{path.relative_to(root)}")
    remote = stores.open(f"s3://{bucket}/some/where/cues.zarr")
    assert_same(remote, local)
    assert remote.clip_record(FAILED).reason == f"clip {FAILED} cannot be decoded"


@pytest.mark.parametrize("url", ["s3://bucket/a/b.zarr", "gs://bucket/a/b.zarr", "https://host/a/b.zarr"])
def test_every_scheme_connects(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SKIP_SIGNATURE", "GOOGLE_SKIP_SIGNATURE"):
        monkeypatch.setenv(name, "true")
    assert "a/b.zarr" in repr(RemoteFiles(url).objects)


def test_no_store_at_a_url(server: str) -> None:
    with pytest.raises(
        StoreError, match=r"no cue store at http://.*/other\.zarr: a folder with zarr\.json was expected"
    ):
        stores.open(f"{server}/other.zarr")


def test_unreachable_url() -> None:
    with pytest.raises(
        StoreError, match=r"http://127\.0\.0\.1:9/cues\.zarr/zarr\.json cannot be read .*; check the address"
    ):
        stores.open("http://127.0.0.1:9/cues.zarr")


def test_unsupported_scheme() -> None:
    with pytest.raises(StoreError, match=r"has the scheme 'ftp'; a store is a folder or one of s3, gs"):
        stores.open("ftp://somewhere/cues.zarr")


def test_invalid_address() -> None:
    with pytest.raises(StoreError, match=r"s3: is not a valid address .*; correct it"):
        stores.open("s3://")


def test_a_remote_store_is_read_only(server: str) -> None:
    remote = stores.open(f"{server}/cues.zarr")
    with pytest.raises(StoreError, match="is read-only; write to a store in a folder"):
        remote.publish_statuses()


def test_a_connection_is_refused_after_a_fork(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = stores.open(f"{server}/cues.zarr")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(StoreError, match="start loader processes with `forkserver` or `spawn`"):
        remote.read("rgb", 0)


def read_depth(store: CueStore, clip: int) -> np.ndarray:
    return store.read("depth", clip)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_remote_store_is_reopened_in_a_worker(server: str, local: stores.CueStore, method: str) -> None:
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        remote = stores.open(f"{server}/cues.zarr")
        np.testing.assert_array_equal(pool.apply(read_depth, (remote, 4)), local.read("depth", 4))


def test_damage_is_detected_remotely(local: stores.CueStore) -> None:
    from obstore.store import MemoryStore

    objects = MemoryStore()
    for name, spec in local.arrays.items():
        data = bytearray((Path(local.path) / spec.shard_key(0)).read_bytes())
        if name == "rgb":
            data[100] ^= 1
        objects.put(spec.shard_key(0), bytes(data))
    record = "ledger/000/0000000-001-1111.json"
    objects.put(record, (Path(local.path) / record).read_bytes())
    remote = CueStore(RemoteFiles("memory://cues.zarr", objects), local.header)
    with pytest.raises(StoreError, match=r"memory://cues\.zarr/rgb/c\.0.* is damaged"):
        remote.read("rgb", 0)
    with pytest.raises(StoreError, match=r"it is missing"):
        remote._reader.read("rgb", 4, [0])
