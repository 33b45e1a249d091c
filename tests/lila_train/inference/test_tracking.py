"""`lila-train track`: objects of the first frame, tracked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from click.testing import Result
from PIL import Image, ImageFilter
from torch import Tensor
from typer.testing import CliRunner

from lila_cues.images import read_image
from lila_cues.video.reader import VideoFrames
from lila_cues.viz.pictures import write_label_png
from lila_train.cli import app
from lila_train.inference.masks import read_mask, read_masks
from lila_train.inference.points import Points
from lila_train.inference.tracking import follow, follow_points, open_frames
from lila_train.model.lila import Lila
from lila_train.model.propagation import Propagation
from stores.errors import LilaError
from tests.lila_train.inference.models import small_model, write_test_video

SIZE = (64, 96)


def square(left: int, values: tuple[int, int] = (1, 2)) -> np.ndarray:
    """Two squares on black, `left` px from the border."""
    labels = np.zeros(SIZE, np.uint8)
    labels[16:40, left : left + 24] = values[0]
    labels[44:60, left + 8 : left + 32] = values[1]
    return labels


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Six frames in which two coloured squares move by 4 px each over a still ground, and the first one's mask."""
    rng = np.random.default_rng(0)
    ground = np.asarray(Image.fromarray(rng.integers(90, 130, (8, 12, 3), dtype=np.uint8)).resize(SIZE[::-1]))
    (tmp_path / "frames").mkdir()
    for n in range(6):
        labels, frame = square(8 + 4 * n), ground.copy()
        frame[labels == 1], frame[labels == 2] = (230, 30, 30), (30, 60, 230)
        Image.fromarray(frame).save(tmp_path / f"frames/{n:05d}.png")
    write_label_png(tmp_path / "mask.png", square(8, values=(3, 7)))
    return tmp_path


def track(weights: Path, root: Path, video: Path, *arguments: object) -> Result:
    words = [str(video), "--mask", str(root / "mask.png"), "--weights", str(weights), "--out", str(root / "out")]
    return CliRunner().invoke(app, ["track", *words, *map(str, arguments)])


def test_objects_are_tracked_and_keep_their_values(scene: Path, weights: Path) -> None:
    result = track(weights, scene, scene / "frames", "--size", 64)
    assert result.exception is None, result.exception
    assert "6 frames, 2 objects" in result.output
    overlap = []
    for n in range(6):
        with Image.open(scene / f"out/{n:05d}.png") as image:
            assert image.mode == "P"
            found = np.asarray(image)
        assert set(np.unique(found)) <= {0, 3, 7}
        true = square(8 + 4 * n, values=(3, 7))
        overlap += [((found == v) & (true == v)).sum() / ((found == v) | (true == v)).sum() for v in (3, 7)]
    assert overlap[:2] == [1, 1]
    assert np.mean(overlap) > 0.6
    assert [p.shape for p in VideoFrames(scene / "out/overlay.mp4")] == [(*SIZE, 3)] * 6


class Neighborhoods(Lila):
    """Features are the colors of 7×7 pixels around each: equal wherever a pattern has moved to."""

    out_channels = 3 * 7 * 7

    def forward(self, images: Tensor) -> Tensor:
        padded = F.pad(images - 0.5, (3, 3, 3, 3), mode="replicate")
        return F.unfold(padded, 7).unflatten(-1, images.shape[-2:])


def neighborhoods() -> Neighborhoods:
    model = small_model()
    return Neighborhoods(model.encoder, model.decoder)


def overlaps(scene: Path, values: tuple[int, int]) -> np.ndarray:
    """Intersection over union of the two objects in each frame."""
    found = [np.asarray(Image.open(scene / f"out/{n:05d}.png")) for n in range(6)]
    true = [square(8 + 4 * n, values) for n in range(6)]
    return np.array(
        [
            [((f == v) & (t == v)).sum() / ((f == v) | (t == v)).sum() for v in values]
            for f, t in zip(found, true, strict=True)
        ]
    )


def command(weights: Path, scene: Path, *arguments: object) -> Result:
    words = [str(scene / "frames"), "--weights", str(weights), "--out", str(scene / "out"), "--size", "64"]
    return CliRunner().invoke(app, ["track", *words, *map(str, arguments)])


@pytest.mark.parametrize(
    ("masks", "values"),
    [
        ([(5, (1, 1), (3, 7))], (3, 7)),  # frame; which objects its mask has; their values
        ([(2, (1, 0), (1, 1)), (4, (0, 1), (1, 1))], (1, 2)),
        ([(0, (1, 0), (3, 7)), (3, (1, 1), (3, 7))], (3, 7)),
    ],
)
def test_masks_of_any_frame_are_carried_forward_and_backward(
    scene: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    masks: list[tuple[int, tuple[int, int], tuple[int, int]]],
    values: tuple[int, int],
) -> None:
    """In the second case each mask is a gray image of one object, in the others an indexed PNG."""
    monkeypatch.setattr("lila_train.model.lila.load", lambda *_, **__: neighborhoods())
    arguments: list[object] = []
    for frame, shown, written in masks:
        labels = square(8 + 4 * frame, (shown[0] * written[0], shown[1] * written[1]))
        path = scene / f"mask{frame}.png"
        if values == (1, 2):
            Image.fromarray(255 * labels).save(path)
        else:
            write_label_png(path, labels)
        arguments += ["--mask", f"{frame}:{path}"]
    result = command(weights, scene, *arguments)
    assert result.exception is None, result.exception
    assert "6 frames, 2 objects" in result.output
    found = overlaps(scene, values)
    for frame, shown, _ in masks:
        assert (found[frame][np.array(shown) == 1] == 1).all(), "the mask that was given"
    assert found.min() > 0.7


def test_masks_that_do_not_fit_together_are_refused(scene: Path, weights: Path, tmp_path: Path) -> None:
    first, black = square(8, (1, 0)), np.zeros((5, 5), np.uint8)
    write_label_png(tmp_path / "a.png", first)
    write_label_png(tmp_path / "b.png", square(12, (1, 0)))
    Image.fromarray(255 * first).save(tmp_path / "gray.png")
    Image.fromarray(black).save(tmp_path / "black.png")
    a, b, gray = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "gray.png"
    for masks, message in (
        ((a, b), f"object 1 of frame 0 is in {a} and in {b}; give each object an index of its own"),
        ((a, gray), f"object 1 of {a} is covered by the masks after it"),
        ((f"6:{a}",), "expected marks on frames 0 to 5, found one on frame 6"),
        ((f"x:{a}",), "x:"),
        ((), "expected --mask or --points, found neither"),
    ):
        result = command(weights, scene, *(word for mask in masks for word in ("--mask", mask)))
        assert isinstance(result.exception, LilaError)
        assert message in str(result.exception)
    write_test_video(tmp_path / "v.mp4", frames=3, size=SIZE)
    words = ["track", str(tmp_path / "v.mp4"), "--weights", str(weights), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--mask", f"5:{a}"])
    assert "expected marks on frames 0 to 2, found one on frame 5" in str(result.exception)


def moving_patterns(frames: int = 8) -> tuple[list[np.ndarray], Points, np.ndarray]:
    """Frames of a square over a ground, points on both with frames of their own, and their places, t×n×2."""
    rng = np.random.default_rng(0)

    def texture(height: int, width: int) -> np.ndarray:
        coarse = Image.fromarray(rng.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8))
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))

    ground, moving = texture(96, 160), texture(50, 50)
    pictures = [np.roll(ground, -n, axis=1) for n in range(frames)]
    for n, picture in enumerate(pictures):
        picture[20 + 2 * n : 70 + 2 * n, 10 + 5 * n : 60 + 5 * n] = moving
    starts = np.array([0, 3, 7, 0])
    true = np.array(
        [
            [(35 + 5 * n, 45 + 2 * n), (30 + 5 * n, 40.5 + 2 * n), (40 + 5 * n, 38 + 2 * n), (130 - n, 80)]
            for n in range(frames)
        ]
    )
    return pictures, Points(Path("p.csv"), true[starts, range(4)], starts, None), true


@pytest.mark.parametrize("size", [96, 48])
def test_points_follow_patterns_forward_and_backward(size: int) -> None:
    pictures, points, true = moving_patterns()
    tracked = list(
        follow_points(neighborhoods(), pictures, points, Propagation(short_side_px=size, window=13), (96, 160))
    )
    error = np.linalg.norm([xy for _, xy, _ in tracked] - true, axis=2)
    assert error.max() < 96 / size, "a pixel of what the network sees"
    assert min(similarity.min() for *_, similarity in tracked) > 0.8
    np.testing.assert_allclose(error[[0, 3, 7, 0], range(4)], 0, atol=1e-4)


def test_points_are_tracked_by_command(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lila_train.model.lila.load", lambda *_, **__: neighborhoods())
    ground = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(ground).resize((240, 96), Image.Resampling.BICUBIC))
    (tmp_path / "frames").mkdir()
    for n in range(6):
        Image.fromarray(wide[:, 8 * n : 8 * n + 160]).save(tmp_path / f"frames/{n}.png")
    places = {"a": (120, 40, 0), "b": (90, 60, 3)}
    (tmp_path / "p.csv").write_text("x,y,frame\n" + "".join(f"{x},{y},{t}\n" for x, y, t in places.values()))
    words = (tmp_path / "frames", "--points", tmp_path / "p.csv", "--size", 96, "--out", tmp_path / "out")
    for _ in range(2):
        result = CliRunner().invoke(app, ["track", *map(str, words), "--weights", str(weights)])
        assert result.exception is None, result.exception
    assert "6 frames, 2 points: " in result.output
    lines = (tmp_path / "out/tracks.csv").read_text().splitlines()
    assert lines[0] == "point,frame,x,y,similarity"
    rows = np.array([line.split(",") for line in lines[1:]], float).reshape(6, 2, 5)
    np.testing.assert_array_equal(rows[:, 0, 1], range(6))
    true = [[(x - 8 * (n - t), y) for x, y, t in places.values()] for n in range(6)]
    assert np.linalg.norm(rows[..., 2:4] - true, axis=2).max() < 1
    assert [p.shape for p in VideoFrames(tmp_path / "out/overlay.mp4")] == [(96, 160, 3)] * 6
    (tmp_path / "p.csv").write_text("120,96,0\n")
    result = CliRunner().invoke(app, ["track", *map(str, words), "--weights", str(weights)])
    assert "point 0: expected x up to 159 and y up to 95 in frame 0" in str(result.exception)


def test_a_video_file_is_tracked_up_to_max_frames(weights: Path, tmp_path: Path) -> None:
    write_test_video(tmp_path / "v.mp4", frames=5, size=SIZE)
    Image.fromarray((square(8) > 0).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    result = track(weights, tmp_path, tmp_path / "v.mp4", "--max-frames", 3)
    assert result.exception is None, result.exception
    assert "3 frames, 1 object:" in result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".lock",
        "00000.png",
        "00001.png",
        "00002.png",
        "overlay.mp4",
        "track.json",
    ]


def test_the_same_command_starts_again_and_others_are_refused(
    scene: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def masks() -> list[str]:
        return sorted(path.name for path in (scene / "out").glob("0*.png"))

    arguments = (weights, scene, scene / "frames", "--size", 64, "--max-frames")
    assert track(*arguments, 3).exception is None
    (scene / "out/00001.png").unlink()
    assert track(*arguments, 3).exception is None
    assert masks() == ["00000.png", "00001.png", "00002.png"]
    with monkeypatch.context() as patch:
        patch.setattr("lila_train.model.lila.load", None)  # refused before it is called
        assert "(settings.max_frames: 3, not 2); pass those, start again with --overwrite" in str(
            track(*arguments, 2).exception
        )
    (scene / "out/track.json").unlink()
    assert "written by 0.1; start again with --overwrite" in str(track(*arguments, 2).exception)
    (scene / "out/thesis.tex").touch()
    assert track(*arguments, 2, "--overwrite").exception is None
    assert masks() == ["00000.png", "00001.png"]
    assert (scene / "out/thesis.tex").exists()


def test_numbered_pictures_of_others_are_never_replaced(scene: Path, weights: Path) -> None:
    (scene / "frames").rename(scene / "out")
    for arguments in ((), ("--overwrite",)):
        result = track(weights, scene, scene / "out", *arguments)
        assert "expected an empty folder or results of this command in" in str(result.exception)


def test_frames_are_read_one_by_one(scene: Path) -> None:
    """An endless video can be tracked: only prefetched frames are in memory."""
    given = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal given
        while True:
            given += 1
            yield read_image(scene / "frames/00000.png")

    masks = read_masks([str(scene / "mask.png")], SIZE)
    results = follow(small_model(), endless(), masks, Propagation(short_side_px=64))
    for _ in range(4):
        next(results)
    assert given <= 4 + 8
    results.close()  # type: ignore[attr-defined]


def test_masks_are_read_by_index_gray_level_or_color(tmp_path: Path) -> None:
    labels = square(8)
    gray = np.array([0, 40, 255], np.uint8)[labels]
    color = np.array([[0, 0, 0], [0, 200, 0], [9, 0, 0]], np.uint8)[labels]
    for name, array in (("grey", gray), ("colour", color)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        found = read_mask(tmp_path / f"{name}.png")
        assert len(np.unique(found.labels)) == 3
        assert len(np.unique(found.labels[labels == 1])) == len(np.unique(found.labels[labels == 2])) == 1
        np.testing.assert_array_equal(found.labels == 0, labels == 0)


def soft(labels: np.ndarray, blur: type[ImageFilter.Filter] = ImageFilter.GaussianBlur, radius: int = 3) -> Image.Image:
    return Image.fromarray((255 * (labels > 0)).astype(np.uint8)).filter(blur(radius))


def as_jpeg(labels: np.ndarray) -> Image.Image:
    """What a mask that was a JPEG once holds in a PNG."""
    file = io.BytesIO()
    Image.fromarray((255 * (labels > 0)).astype(np.uint8)).save(file, "jpeg", quality=80)
    return Image.open(file).convert("RGB")


def transparent(labels: np.ndarray, mode: str) -> Image.Image:
    """Objects in two colors over a colored ground that is transparent."""
    color = np.array([[90, 90, 90, 0], [0, 200, 0, 255], [9, 0, 0, 255]], np.uint8)[labels]
    return Image.fromarray(color).convert(mode)


def indexed(labels: np.ndarray, **info: int) -> Image.Image:
    image = Image.fromarray(labels)
    image.putpalette(bytes(range(256)) * 3)
    image.info |= info
    return image


MASKS = {  # image and suffix, and the values of the objects or the sentence
    "void": (lambda labels: indexed(np.where(labels == 2, 255, labels).astype(np.uint8)), ".png", [1]),
    "RGBA": (lambda labels: transparent(labels, "RGBA"), ".png", [1, 2]),
    "LA": (lambda labels: transparent(labels, "LA"), ".png", [1, 2]),
    "16 bits": (lambda labels: Image.fromarray(np.array([0, 1000, 1001], np.uint16)[labels]), ".png", [1, 2]),
    "32 bits": (lambda labels: Image.fromarray(np.array([0, 70_000, 70_001], np.int32)[labels]), ".tif", [1, 2]),
    "floats": (lambda labels: Image.fromarray(np.array([0, 1.5, 1.6], np.float32)[labels]), ".tif", [1, 2]),
    "NaN": (lambda labels: Image.fromarray(np.array([0, 1, np.nan], np.float32)[labels]), ".tif", "found NaN or infin"),
    "infinity": (lambda labels: Image.fromarray(np.array([0, 1, np.inf], np.float32)[labels]), ".tif", "found NaN or"),
    "JPEG": (
        lambda labels: Image.fromarray(labels * 100),
        ".jpg",
        "as a JPEG or soft edges make them; save the mask as",
    ),
    "a JPEG by another name": (lambda labels: as_jpeg(labels), ".png", "save the mask as an indexed PNG"),
    "soft edges": (
        soft,
        ".png",
        "slivers, as a JPEG or soft edges make them; save the mask as an indexed PNG, without",
    ),
    "few soft edges": (
        lambda labels: soft(labels, ImageFilter.BoxBlur, 1),
        ".png",
        r"found \d, \d of them slivers, as a JPEG or soft",
    ),
    "soft edges, indexed": (lambda labels: soft(labels).convert("P"), ".png", "of them slivers, as a JPEG or soft"),
    "negative": (lambda labels: Image.fromarray(np.array([0, -1, 5], np.int32)[labels]), ".tif", "a negative value"),
    "one bit": (lambda labels: Image.fromarray(labels == 1), ".png", [1]),
    "transparent index": (lambda labels: indexed(labels, transparency=2), ".png", [1]),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_kind(tmp_path: Path, name: str) -> None:
    make, suffix, expected = MASKS[name]
    labels = square(8)
    path = tmp_path / f"mask{suffix}"
    make(labels).save(path)
    if isinstance(expected, str):
        with pytest.raises(LilaError, match=expected):
            read_mask(path)
        return
    found = read_mask(path)
    assert found.values.tolist() == [0, *expected]
    np.testing.assert_array_equal(found.labels > 0, np.isin(labels, expected))
    assert all(len(np.unique(found.labels[labels == value])) == 1 for value in expected)


def test_an_object_of_one_pixel_is_one_and_a_mask_is_turned_like_its_frame(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[:20, :20], labels[40, 50] = 1, 2
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(np.rot90(labels, -1)).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png").labels, labels)


def test_frames_of_two_sizes_are_named(scene: Path, weights: Path) -> None:
    Image.new("RGB", (40, 40)).save(scene / "frames/00003.png")
    message = str(track(weights, scene, scene / "frames", "--size", 64).exception)
    assert "00003.png: expected 64×96 like the frames before, found 40×40; resize it; the results of the 3" in message


def test_tracking_refusals(scene: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scene / "empty").mkdir()
    (scene / "text.png").write_text("hello")
    for path, message in (
        ("none.mp4", r"expected a video, or a folder of its frames, at .*; found nothing"),
        ("mask.png", "found a .png file"),
        ("empty", "no image in"),
    ):
        with pytest.raises(LilaError, match=message):
            open_frames(scene / path)
    with pytest.raises(LilaError, match=r"text\.png: expected an image, found a file in no known image format"):
        read_mask(scene / "text.png")
    Image.new("L", (8, 8)).save(scene / "black.png")
    with pytest.raises(LilaError, match="expected 1 to 254 objects on a background of 0"):
        read_mask(scene / "black.png")
    with pytest.raises(LilaError, match="expected an odd window and at least 2 frames"):
        Propagation(window=4)
    monkeypatch.setattr("lila_train.model.lila.load", None)  # refused before it is called
    for shape, advice in (((8, 8), "make it for a frame"), (SIZE[::-1], "the frames are turned by their metadata")):
        write_label_png(scene / "mask.png", np.ones(shape, np.uint8))
        message = str(track(weights, scene, scene / "frames").exception)
        assert f"frames' size, 64×96, found one of {shape[0]}×{shape[1]} in " in message
        assert advice in message
