"""A task with networks whose results are known: every cue belongs to its frame and is in its place."""

from __future__ import annotations

import re
import resource
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import stores
from lila_cues.config import BuildConfig
from lila_cues.pamr import Stage, refine
from lila_cues.pipeline import build
from lila_cues.pipeline.cues import ClipPredictions, CueExtractor
from lila_cues.pipeline.errors import DeviceLost, failure_reason
from lila_cues.pipeline.frames import FULL, ClipFrames, base_box, crop
from lila_cues.pipeline.task import Worker
from lila_cues.sampling import select_channels, select_frames
from stores.errors import LilaError
from tests.lila_cues import barcodes, small_networks
from tests.lila_cues.barcodes import Clip


def make_store(path: Path, clips: list[str], shard_clips: int = 2) -> stores.CueStore:
    return stores.create(path, stores.StoreSpec(small_networks.GEOMETRY, shard_clips), clips, {}, {})


def worker_of(
    root: Path, config: BuildConfig = small_networks.CONFIG, threads: int = 2, depth_files: Path | None = None
) -> Worker:
    return Worker(config, small_networks.run_options(root), small_networks.networks(depth_files), threads)


def build_all(
    path: Path, root: Path, clips: list[str], config: BuildConfig = small_networks.CONFIG, threads: int = 2
) -> stores.CueStore:
    store = make_store(path, clips)
    with worker_of(root, config, threads) as worker:
        for _ in build.build_local(store, worker, range(store.n_tasks)):
            pass
    return store


def names(count: int = 7) -> list[str]:
    return [f"{index}.mp4" for index in range(count)]


@pytest.fixture(scope="module")
def built(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return build_all(tmp_path_factory.mktemp("store") / "s.zarr", videos, names())


def test_good_clips_are_complete_and_the_bad_one_has_its_reason(built: stores.CueStore) -> None:
    assert built.statuses().tolist() == [1, 1, 1, 2, 1, 1, 1]
    assert "3.mp4: expected a video, found a file that cannot be opened" in (built.clip_record(3).reason or "")


def test_every_cue_is_that_of_its_frame(built: stores.CueStore, videos: Path) -> None:
    geometry = small_networks.GEOMETRY
    for clip in built.complete_clips().tolist():
        name = built.clip_id(clip)
        choice = select_frames(0, name, 20 + clip, geometry.frames, geometry.pairs, 3)
        rgb = built.read("rgb", clip)
        assert np.array_equal(built.read("frame_index", clip), choice.frame_index)
        assert np.array_equal(built.read("pair_frames", clip), choice.pair_frames)
        assert np.array_equal(built.read("pair_gap", clip), choice.pair_gap)
        np.testing.assert_allclose(built.read("frame_time", clip), choice.frame_index / 30, atol=1e-6)
        for index, frame in zip(choice.frame_index, rgb, strict=True):
            expected = crop(barcodes.picture(int(index), (72, 96)), base_box((72, 96), (48, 48)), (48, 48))
            assert np.abs(frame.astype(int) - expected).mean() < 6, "but for the codec, the frame asked for"
        small = np.stack([crop(frame, FULL, (32, 32)) for frame in rgb]) / 255
        np.testing.assert_allclose(built.read("depth", clip), 10 * small.mean(-1), atol=0.01)
        mean = small.mean((1, 2, 3))
        change = mean[choice.pair_frames[:, 1]] - mean[choice.pair_frames[:, 0]]
        for direction, sign in (("flow_forward", 1), ("flow_backward", -1)):
            flow = built.read(direction, clip)
            np.testing.assert_allclose(flow[:, 0].mean((1, 2)), sign * change, atol=1 / 64)
            np.testing.assert_allclose(flow[:, 1].mean((1, 2)), -2 * sign * change, atol=1 / 64)


def test_features_are_the_clips_channels_raw_and_refined(built: stores.CueStore) -> None:
    for clip in built.complete_clips().tolist():
        kept = built.read("feature_channels", clip)
        assert np.array_equal(kept, select_channels(0, built.clip_id(clip), 24, 5))
        rgb = built.read("rgb", clip)
        small = np.stack([crop(frame, FULL, (32, 32)) for frame in rgb]) / 255
        patches = small.reshape(6, 4, 8, 4, 8, 3).mean((2, 4))
        expected = np.stack([patches[..., channel % 3] * (channel // 3 + 1) for channel in kept], axis=1)
        raw, refined = built.read("features_raw", clip), built.read("features", clip)
        np.testing.assert_allclose(raw, expected, atol=expected.max() / 100)
        stages = [Stage((8, 8), 2), Stage((16, 16), 1), Stage((32, 32), 1)]
        guide = torch.from_numpy(small).float().permute(0, 3, 1, 2)
        fine = refine(torch.from_numpy(expected).float(), guide, stages).numpy()
        np.testing.assert_allclose(refined, fine.reshape(6, 5, 16, 2, 16, 2).mean((3, 5)), atol=expected.max() / 60)
        low, high = raw.min((2, 3), keepdims=True), raw.max((2, 3), keepdims=True)
        assert np.all(refined > low - 0.1)
        assert np.all(refined < high + 0.1), "refinement averages, it never leaves the range"


def cue_bytes(store: stores.CueStore) -> dict[str, bytes]:
    root = Path(store.path)
    shards = [path for name in store.arrays for path in (root / name).glob("c.*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in shards}


def test_the_bytes_do_not_depend_on_threads_or_on_who_builds_which_task(
    built: stores.CueStore, videos: Path, tmp_path: Path
) -> None:
    again = build_all(tmp_path / "again.zarr", videos, names(), threads=5)
    store = make_store(tmp_path / "shares.zarr", names())
    for shard in ((1, 2), (0, 2)):
        with worker_of(videos) as worker:
            list(build.build_local(store, worker, build.tasks_of_shard(range(store.n_tasks), shard)))
    assert cue_bytes(again) == cue_bytes(built)
    assert cue_bytes(store) == cue_bytes(built)


def in_passes(path: Path, root: Path, size: int) -> tuple[stores.CueStore, Worker]:
    """Build with networks of real layers, some clips per pass."""
    config = small_networks.CONFIG.replace(encoder="tiny", depth="tiny", flow="raft_small", flow_updates=2)
    config = config.replace(encoder_weights="random:1", depth_weights="random:1", flow_weights="random:1")
    store = stores.create(path, stores.StoreSpec(config.geometry(8, 96), 7), names(), {}, {})
    options = replace(small_networks.run_options(root), clips_per_pass=size)
    with Worker(config, options, threads=2) as worker:
        list(build.build_local(store, worker, range(store.n_tasks)))
    return store, worker


def test_clips_in_one_pass_give_what_they_give_alone(videos: Path, tmp_path: Path) -> None:
    (alone, one), (together, four) = (in_passes(tmp_path / f"{size}.zarr", videos, size) for size in (1, 4))
    assert one.extractor.clip_flops == pytest.approx(four.extractor.clip_flops, 1e-4), "the count is of a clip"
    assert one.extractor.clip_flops
    assert together.statuses().tolist() == [1, 1, 1, 2, 1, 1, 1]
    for clip in alone.complete_clips().tolist():
        for name, spec in alone.arrays.items():
            expected, found = alone.read(name, clip), together.read(name, clip)
            step = 1 / 64 if name.startswith("flow") else np.abs(expected).max() / 100 if spec.dtype.kind == "f" else 0
            np.testing.assert_allclose(found, expected, atol=step, rtol=0, err_msg=name)


@pytest.mark.parametrize(("room", "fits"), [(2, True), (1, True), (0, False)])
def test_passes_are_halved_when_memory_is_exhausted(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, fits: bool
) -> None:
    predict = CueExtractor.predict

    def limited(extractor: CueExtractor, clips: Sequence[ClipFrames]) -> list[ClipPredictions]:
        if len(clips) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(extractor, clips)

    monkeypatch.setattr(CueExtractor, "predict", limited)
    if fits:
        store, worker = in_passes(tmp_path / "s.zarr", videos, 4)
        assert store.statuses().tolist() == [1, 1, 1, 2, 1, 1, 1]
        assert worker.clips_per_pass == room
    else:
        with pytest.raises(LilaError, match="expected room on cpu for one clip, found its memory exhausted"):
            in_passes(tmp_path / "s.zarr", videos, 4)


def test_a_device_that_fails_ends_the_build_with_what_is_done_published(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, calls = CueExtractor.predict, list[str]()

    def failing(extractor: CueExtractor, clips: Sequence[ClipFrames]) -> list[ClipPredictions]:
        calls.extend(clip.clip_id for clip in clips)
        if len(calls) > 2:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with …")
        return predict(extractor, clips)

    monkeypatch.setattr(CueExtractor, "predict", failing)
    with pytest.raises(
        DeviceLost, match=r"found that it failed \(CUDA error: an illegal memory access was encountered\)"
    ):
        in_passes(tmp_path / "s.zarr", videos, 1)
    store = stores.open(tmp_path / "s.zarr")
    assert store.complete_clips().tolist() == [0, 1]
    assert store.locked_by(0) is None


def test_another_seed_keeps_other_frames_and_channels(built: stores.CueStore, videos: Path, tmp_path: Path) -> None:
    other = build_all(tmp_path / "other.zarr", videos, ["0.mp4"], small_networks.CONFIG.replace(seed=1))
    for name in ("frame_index", "feature_channels"):
        assert not np.array_equal(other.read(name, 0), built.read(name, 0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("network", "method", "reason"),
    [
        ("encoder", "grid", r"from the encoder, found NaN or infinity for frame (\d+);"),
        ("depth", "__call__", r"from the depth network, found NaN or infinity for frame (\d+);"),
        ("flow", "between", r"from the flow network, found NaN or infinity for frame (\d+ to \d+);"),
    ],
)
def test_a_network_that_gives_nan_fails_the_clip(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, method: str, reason: str, value: float
) -> None:
    store = make_store(tmp_path / "s.zarr", ["0.mp4", "1.mp4"])
    choice = select_frames(0, "0.mp4", 20, small_networks.GEOMETRY.frames, small_networks.GEOMETRY.pairs, 3)
    frames = choice.frame_index[choice.pair_frames[0]] if network == "flow" else choice.frame_index[:1]
    expected = " to ".join(map(str, frames))
    with worker_of(videos) as worker:
        kind = type(getattr(worker.extractor.networks, network))
        predict, calls = getattr(kind, method), []

        def spoiled(self: object, *images: Tensor) -> Tensor:
            maps: Tensor = predict(self, *images)
            if not calls:
                maps[0] = value
            calls.append(1)
            return maps

        monkeypatch.setattr(kind, method, spoiled)
        (report,) = build.build_local(store, worker, [0])
    assert (report.complete, list(report.failed)) == (1, ["0.mp4"])
    found = re.search(reason, store.clip_record(0).reason or "")
    assert found
    assert found[1] == expected


def test_a_task_is_built_once(built: stores.CueStore, videos: Path) -> None:
    with worker_of(videos) as worker:
        assert worker.submit(built, 0).result() is None
        assert list(build.build_local(built, worker, range(built.n_tasks))) == []


def test_a_stopped_worker_publishes_its_completed_clips(built: stores.CueStore, videos: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", names(), shard_clips=7)
    uninterrupted = make_store(tmp_path / "uninterrupted.zarr", names(), shard_clips=7)
    with worker_of(videos) as worker:
        report = worker.submit(store, 0, on_clip_done=lambda *clip: worker.stop.set()).result()
    assert report is not None
    done = report.complete + len(report.failed)
    assert 1 <= done < 7
    assert store.statuses().tolist() == [1, 1, 1, 2, 1, 1, 1][:done] + [0] * (7 - done)
    for target in (store, uninterrupted):
        with worker_of(videos) as worker:
            list(build.build_local(target, worker, target.pending_tasks()))
    assert store.statuses().tolist() == [1, 1, 1, 2, 1, 1, 1]
    assert cue_bytes(store) == cue_bytes(uninterrupted), "completed clips are carried over byte for byte"


def test_only_failed_clips_are_tried_again(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for path in videos.glob("[0-3].mp4"):
        (root / path.name).write_bytes(path.read_bytes())
    store = build_all(tmp_path / "s.zarr", root, names(4))
    before = cue_bytes(store)
    assert store.statuses().tolist() == [1, 1, 1, 2]
    barcodes.write(root / "3.mp4", Clip(frames=23, size=(72, 96)))
    calls: list[tuple[str, str | None]] = []
    with worker_of(root) as worker:
        report = worker.submit(store, 1, only_failed=True, on_clip_done=lambda *clip: calls.append(clip)).result()
    assert report is not None
    assert (report.complete, report.failed, calls) == (1, {}, [("3.mp4", None)])
    assert store.statuses().tolist() == [1, 1, 1, 1]
    assert cue_bytes(store).keys() == before.keys()


def test_depth_from_files_is_cut_as_the_frames_are(tmp_path: Path) -> None:
    clip = tmp_path / "clips" / "c"
    maps = tmp_path / "depth" / "c"
    for folder in (clip, maps):
        folder.mkdir(parents=True)
    for index in range(8):
        cv2.imwrite(str(clip / f"{index:05d}.png"), barcodes.picture(index, (48, 96)))
        ramp = np.tile(np.linspace(1000, 8000, 64), (48, 1)).astype(np.uint16) + 1000 * index
        cv2.imwrite(str(maps / f"{index:05d}.png"), ramp)
    store = make_store(tmp_path / "s.zarr", ["c"])
    frames_config = small_networks.CONFIG.replace(dataset="frames")
    with worker_of(tmp_path / "clips", frames_config, depth_files=tmp_path / "depth") as worker:
        list(build.build_local(store, worker, [0]))
    z = 100 / store.read("depth", 0)
    middle = 1000 + 7000 * (0.25 + 0.5 * (np.arange(32) + 0.5) / 32)  # the middle half of the width
    expected = middle + 1000 * store.read("frame_index", 0)[:, None]
    np.testing.assert_allclose(1000 * z.mean(1), expected, rtol=0.02)


def test_a_missing_depth_map_fails_its_clip_alone(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "depth").mkdir()
    store = make_store(tmp_path / "s.zarr", ["0.mp4"])
    with worker_of(videos, depth_files=tmp_path / "depth") as worker:
        (report,) = build.build_local(store, worker, [0])
    assert "expected the depth map of frame" in report.failed["0.mp4"]


def test_only_errors_of_a_file_become_a_reason() -> None:
    assert failure_reason(LilaError("no video")) == "no video"
    assert failure_reason(ValueError("odd")) == "ValueError: odd"
    assert len(failure_reason(ValueError("x" * 5000))) == 400
    for error in (MemoryError(), CancelledError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            failure_reason(error)


def test_an_error_in_a_network_is_not_a_bad_clip(videos: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", names())
    broken = replace(small_networks.networks(), flow=Explodes())
    with (
        Worker(small_networks.CONFIG, small_networks.run_options(videos), broken, 2) as worker,  # type: ignore[arg-type]
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        list(build.build_local(store, worker, range(store.n_tasks)))
    assert store.statuses().tolist() == [0] * 7
    assert store.locked_by(0) is None


class Explodes(small_networks.Difference):
    def between(self, *given: object) -> torch.Tensor:
        raise RuntimeError("out of memory")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see its own memory")
def test_memory_does_not_grow_over_200_clips(videos: Path, tmp_path: Path) -> None:
    clips = [f"{index:03d}.mp4" for index in range(200)]
    for index, clip in enumerate(clips):
        (tmp_path / clip).symlink_to(videos / f"{(0, 1, 2, 4)[index % 4]}.mp4")
    store = make_store(tmp_path / "s.zarr", clips, shard_clips=16)
    seen: list[float] = []
    with worker_of(tmp_path) as worker:
        for _ in build.build_local(store, worker, range(store.n_tasks)):
            seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)
    assert len(store.complete_clips()) == 200
    assert max(seen[4:]) < max(seen[:4]) + 20, f"MiB after each task: {seen}"
