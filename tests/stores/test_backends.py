"""A store over HTTP, in S3 and in memory reads as it does on disk; errors are one sentence."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray
from typer.testing import CliRunner
from zarr.storage import ObjectStore

import stores
from lila_cues.cli import app
from stores import StoreError
from stores.backends import RETRY_VARIABLE, LocalFiles, RemoteFiles
from stores.store import CueStore
from tests.stores import worlds
from tests.stores.http_server import Faults, serve

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


def test_unreachable_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0")
    with pytest.raises(
        StoreError, match=r"http://127\.0\.0\.1:9/cues\.zarr/zarr\.json cannot be read .*; check the address"
    ):
        stores.open("http://127.0.0.1:9/cues.zarr")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.setattr(
        "time.sleep", lambda seconds, sleep=time.sleep: sleep(seconds / 100 if seconds >= 0.4 else seconds)
    )
    return Faults()


def test_a_request_that_fails_in_passing_is_repeated(
    local: stores.CueStore, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is away for a moment, and cuts bodies short."""
    failing = {"rgb": 3, "depth": 2, "zarr.json": 1}

    def failed(path: str) -> bool:
        name = path.split("/")[2]
        failing[name] = failing.get(name, 0) - 1
        return failing[name] >= 0

    faults.answer = lambda path: 503 if "depth" not in path and failed(path) else None
    faults.cut = lambda path: "depth" in path and failed(path)
    with serve(Path(local.path).parent, faults) as url:
        assert_same(stores.open(f"{url}/cues.zarr"), local)
    assert len(caplog.messages) == 6
    for message in caplog.messages:
        assert re.fullmatch(
            r"http://\S+ cannot be read \(.*\); trying again in (0\.5|1|2) s, for 120 s in all", message
        )


def test_a_server_that_stays_away_is_one_sentence(
    local: stores.CueStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Path(local.path).parent, faults) as url:
        remote = stores.open(f"{url}/cues.zarr")
        monkeypatch.setenv(RETRY_VARIABLE, "0.2")
        faults.answer = lambda path: 503
        with pytest.raises(
            StoreError, match=r"depth/c\.0\S+ cannot be read .*503.* for 0.2 s \(--retry-seconds\); check"
        ):
            remote._reader.read("depth", 0)
        asked = len(faults.paths)
        faults.answer = lambda path: 403  # which does not pass
        with pytest.raises(StoreError, match=r"rgb/c\.0\S+ cannot be read .*403 Forbidden.*; check the address"):
            remote._reader.read("rgb", 0)
        assert len(faults.paths) == asked + 1


def test_a_server_without_byte_ranges(local: stores.CueStore, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m http.server`: files are read whole, up to a size."""
    faults.ranges = False
    with serve(Path(local.path).parent, faults) as url:
        assert_same(stores.open(f"{url}/cues.zarr"), local)
        monkeypatch.setattr("stores.backends._WHOLE_FILE", 2000)
        with pytest.raises(StoreError, match=r"rgb/c\.0\S* gives no byte ranges, without which a file of more than"):
            stores.open(f"{url}/cues.zarr").read("rgb", 0)


def test_a_pair_is_read_by_requests_side_by_side(local: stores.CueStore, faults: Faults) -> None:
    with serve(Path(local.path).parent, faults) as url:
        remote = stores.open(f"{url}/cues.zarr")
        remote.statuses()
        faults.paths.clear()
        faults.seconds = 0.3
        remote.stored_pair(0, 0)
        small = len(remote.arrays) - len(remote.cue_names)
        assert faults.at_once >= 8
        assert len(faults.paths) <= 2 * len(remote.cue_names) + small
        faults.paths.clear()
        remote.stored_pair(1, 0)  # of the same task: shards are open, small arrays known
        assert len(faults.paths) <= len(remote.cue_names)


def test_secrets_of_a_url_are_used_and_not_printed(
    local: stores.CueStore, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    faults.answer = lambda path: None if path.endswith("?sig=SECRET") else 403
    with serve(Path(local.path).parent, faults) as url:
        signed = f"{url.replace('//', '//user:PASSWORD@')}/cues.zarr?sig=SECRET"
        remote = stores.open(signed)
        assert remote.path == f"{url}/cues.zarr"
        printed = CliRunner().invoke(app, ["status", signed])
        assert f"{url}/cues.zarr" in printed.output
        assert "SECRET" not in printed.output
        assert_same(pickle.loads(pickle.dumps(remote)), local)  # noqa: S301
        faults.answer = lambda path: (
            403 if "pair_gap" in path else 503 if "depth" in path and len(faults.paths) % 2 else None
        )
        with pytest.raises(StoreError, match="403 Forbidden") as refused:
            [stores.open(signed).read(name, 0) for name in ("depth", "pair_gap")]
    assert "SECRET" not in f"{refused.value}{caplog.messages}"
    assert "PASSWORD" not in f"{refused.value}{caplog.messages}"


def test_a_bucket_that_may_not_be_listed(
    local: stores.CueStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The array `status` suffices to read."""
    faults.answer = lambda path: 403 if "list-type" in path else None
    with serve(Path(local.path).parent, faults) as url:
        for name, value in {"AWS_ENDPOINT_URL": url, "AWS_SKIP_SIGNATURE": "true", "AWS_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("stores.backends.SCHEMES", ("s3",))
        remote = stores.open("s3://cues.zarr")
        assert_same(remote, local)
        assert remote.clip_record(FAILED).status == stores.FAILED
        assert any("list-type" in path for path in faults.paths)


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


@pytest.mark.parametrize("scheme", ["s3", "gs", "https"])
@pytest.mark.parametrize(
    "command",
    ["build --dataset demo --store URL", "plan --dataset demo --store URL", "repair URL", "merge URL LOCAL"],
)
def test_commands_that_write_refuse_a_url(
    local: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"{scheme}://bucket/cues.zarr"
    result = CliRunner().invoke(app, command.replace("URL", url).replace("LOCAL", local.path).split())
    expected = rf"found the URL {url}, which is only read; write into a folder, and copy it there afterwards"
    with pytest.raises(StoreError, match=expected):
        raise result.exception or AssertionError
    assert not list(tmp_path.iterdir())


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
