"""Images, videos and data sets on disk: suffixes, listing of files, names of results, and where data sets are searched.

One walk serves both stages. It ignores hidden files (so `.DS_Store` and `._name.jpg` of macOS) and those of other
systems, leaves out results of our commands, and follows links to folders without listing a folder twice.
"""

from __future__ import annotations

import codecs
import csv
import glob
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

from stores.errors import LilaError, os_reason

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg",
    ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".vob",
})  # fmt: skip
SYSTEM_FILES = frozenset({  # of Windows and of Synology's file servers, thumbnails and bins; in lower case
    "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir", "#recycle", "#snapshot",
})  # fmt: skip
MAX_PIXELS_VARIABLE = "LILA_MAX_PIXELS"
RESULTS = frozenset({"features.json", "track.json", "identity.json", "zarr.json"})  # what marks a folder of results
_OUTPUT = re.compile(r"(.+)(\.npz|\.safetensors|\.zarr|_pca\.png|_pca\.mp4)")  # a file written for an input
_MASK = re.compile(r"[-_. ]*(masks?|labels?|gt|seg\w*|depth|alpha|annot\w*)$", re.IGNORECASE)  # after a frame's name


@dataclass(frozen=True)
class InputFile:
    """An image or video, and the path of its results below the output folder (without a suffix)."""

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def list_inputs(sources: Iterable[Path], unique_names: bool = True, out: Path | None = None) -> list[InputFile]:
    """List the images and videos of files, folders (with all below them) and globs (`*`, `?`, `[`, `**`), each once.

    `unique_names` refuses two files whose results would have the same name; `out`, the folder of results, is left out.
    What else is left out of a folder is counted in the log.
    Raises LilaError for a source that is missing, of another kind, without images and videos, or `out` itself.
    """
    files = list(dict.fromkeys(file for source in sources for file in _list_source(source, out)))
    taken: dict[Path, InputFile] = {}
    for file in files if unique_names else []:
        if (other := taken.setdefault(file.name, file)) != file:
            raise LilaError(f"{other.path} and {file.path} would both be written as {file.name}; rename one of them")
    for file in taken.values():
        video = taken.get(file.name.parent)
        if video and video.is_video and file.name.name.isdecimal():  # a video's frames are written as NAME/00000
            raise LilaError(f"{video.path} and {file.path} would both be written as {file.name}; rename one of them")
        for folder in file.name.parents:
            if (found := _OUTPUT.fullmatch(folder.name)) and (same := taken.get(folder.with_name(found[1]))):
                raise LilaError(f"{same.path} and {file.path} would both be written as {folder}; rename one of them")
    return files


def _list_source(source: Path, out: Path | None) -> list[InputFile]:
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    if source.is_dir():
        if out is not None and source.resolve() == out.resolve():
            raise LilaError(f"{source} would receive its own results; pass another folder with --out")
        left_out: Counter[str] = Counter()
        root, paths = source, [source / name for name in walk_files(source, suffixes, out=out, left_out=left_out)]
        problem = f"no image or video under {source}{log_left_out(source, left_out)}"
    elif source.exists() or source.is_symlink():
        if source.exists() and not source.is_file():
            raise LilaError(f"expected a file or a folder at {source}, found a pipe or a device; save it as a file")
        if source.suffix.lower() not in suffixes:
            kind = source.suffix or "nameless"
            raise LilaError(f"expected an image or a video, found a {kind} file at {source}")
        return [InputFile(source, Path(source.stem))]
    elif glob.has_magic(str(source)):
        parts = source.parts
        fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))  # the folder before the first wildcard
        root, problem = Path(*parts[:fixed]), f"no image or video matches {source}"
        deep = parts.index("**") if "**" in parts else len(parts)
        paths = [Path(found) for found in sorted(glob.glob(str(Path(*parts[:deep]))), key=natural_order)]
        if deep < len(parts):
            below = ((top, name) for top in paths if top.is_dir() for name in walk_files(top, suffixes, out=out))
            paths = [top / name for top, name in below if _matches(name.split("/"), parts[deep:])]
    else:
        raise LilaError(f"no file or folder at {source}")
    # broken links are kept, for the reader's error; pipes and devices would block it
    paths = [path for path in paths if path.suffix.lower() in suffixes and (path.is_file() or not path.exists())]
    if not paths:
        raise LilaError(problem)
    return [InputFile(path, path.relative_to(root).with_suffix("")) for path in paths]


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether a path matches a glob, both by their parts; `**` stands for any number of folders."""
    if not names or not patterns:
        return not names and not patterns
    if patterns[0] == "**":
        return any(_matches(names[n:], patterns[1:] or ["*"]) for n in range(len(names)))
    return fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def list_files(folder: Path, suffixes: AbstractSet[str], natural: bool = True) -> list[Path]:
    """Return the files that lie directly in `folder`, as `walk_files` orders them; none if there is no such folder."""
    return [folder / name for name in walk_files(folder, suffixes, natural, below=False)] if folder.is_dir() else []


def walk_files(
    root: Path,
    suffixes: AbstractSet[str],
    natural: bool = True,
    *,
    below: bool = True,
    out: Path | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[str]:
    """Yield the visible files below `root` as paths with "/": a folder's files, then those of its subfolders.

    Linked folders are followed, except where the folder is listed anyway: a link to a parent, or to a place below
    `root`, multiplies nothing. Raises LilaError for a folder that cannot be listed.

    Args:
        suffixes: of the files to list, in lower case with the dot; those on disk may be in upper case.
        natural: frame_9 before frame_10, instead of the order of characters.
        below: list subfolders too.
        out: a folder to leave out.
        left_out: counts visible files that are not listed, by suffix; broken links and folders of results by name.
    """
    left_out = Counter() if left_out is None else left_out
    key = natural_order if natural else str
    top = Path(os.path.realpath(root))
    listed = set() if out is None else {Path(os.path.realpath(out))}
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse_folder):
        place = Path(os.path.realpath(folder))
        inside = os.path.islink(folder) and place.is_relative_to(top) and "/." not in f"/{place.relative_to(top)}"
        if place in listed or inside:
            subfolders.clear()
            continue
        listed.add(place)
        base = "" if Path(folder) == root else Path(folder).relative_to(root).as_posix() + "/"
        if base and not RESULTS.isdisjoint(files):
            left_out[f"folder of results ({base})"] += 1
            subfolders.clear()
            continue
        subfolders[:] = sorted((name for name in subfolders if below and _is_visible(name)), key=key)
        for name in sorted(filter(_is_visible, files), key=key):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in suffixes:
                yield base + name
            elif os.path.exists(path := os.path.join(folder, name)) or not os.path.islink(path):
                left_out[suffix or "without a suffix"] += 1
            else:
                left_out[f"link that leads nowhere ({base}{name})"] += 1


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_FILES


def log_left_out(root: Path, left_out: Counter[str]) -> str:
    """Log what `walk_files` did not list; return it in brackets, for the error where nothing was."""
    if not left_out:
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common(8))
    more = f", {len(left_out) - 8} other kinds" if len(left_out) > 8 else ""
    log.info("left out under %s: %s%s", root, kinds, more)
    return f" ({kinds}{more} left out)"


def list_frames(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order, as the frames of one clip.

    LilaError where two have one name but for the suffix, or for a word such as _mask; missing numbers are logged.
    """
    files = list_files(folder, IMAGE_SUFFIXES)
    stems = [_MASK.sub("", path.stem) for path in files]
    for name, count in Counter(stems).items():
        if count > 1:
            same = " and ".join(path.name for path, stem in zip(files, stems, strict=True) if stem == name)
            raise LilaError(f"expected one image for each frame in {folder}, found {same}; move the masks elsewhere")
    numbers = [int(found[-1]) for path in files if (found := re.findall(r"[0-9]+", path.stem))]
    steps = Counter(after - before for before, after in pairwise(numbers))
    usual = steps.most_common(1)[0][0] if steps else 1
    missing = sum(count * (step // usual - 1) for step, count in steps.items() if step > usual > 0)
    if missing and len(numbers) == len(files):
        frames = "frames are" if missing > 1 else "frame is"
        log.info("%s: %d %s missing in the numbers of its images", folder, missing, frames)
    return files


def natural_order(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Return a sort key that puts frame_10 after frame_9."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts], name


def _refuse_folder(error: OSError) -> None:
    """Stop `os.walk`, which would otherwise skip the folder silently."""
    raise LilaError(
        f"expected a folder of files at {error.filename}, found one that cannot be listed "
        f"({os_reason(error)}); change its permissions or move it away"
    ) from error


def read_bytes(path: Path, expected: str) -> bytes:
    """Return the content of a file that is not empty; LilaError with the reason where it cannot be read."""
    found, cause = "an empty file", None
    try:
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "a pipe or a device"
        elif content := path.read_bytes():
            return content
    except FileNotFoundError:
        if not path.is_symlink():
            raise LilaError(f"{path}: expected {expected}, found no such file; check its name") from None
        found = "a link that leads nowhere"
    except OSError as error:
        found, cause = f"one that cannot be read ({os_reason(error)})", error
    raise LilaError(f"{path}: expected {expected}, found {found}; copy it again or take it away") from cause


def read_text(path: Path) -> str:
    """Return a list as text: UTF-8, UTF-16 or UTF-32, with a byte order mark or not; else LilaError."""
    content = read_bytes(path, "a list")
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:  # the byte order follows from the zero byte of a first ASCII character, if there is one
        encoding = {content[:1]: "utf-16-be", content[1:2]: "utf-16-le"}.get(b"\0", "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        found = error.reason
        raise LilaError(f"{path}: expected a list in UTF-8, found other bytes ({found}); save it again") from error


def read_sequences(path: Path) -> list[str]:
    """Return the names in a list of sequences, each once: one or several a line, or a frame's path `…/NAME/FILE`."""
    names: list[str] = []
    for line in read_text(path).replace("\\", "/").splitlines():
        entries = [entry.strip("/") for entry in re.split(r"[\s,;]+", line)]
        frame = next((entry for entry in entries if "/" in entry), None)
        names += [name for name in entries if name] if frame is None else [frame.split("/")[-2]]
    return list(dict.fromkeys(names))


def read_kinetics_list(path: Path) -> set[str]:
    """Return the YouTube ids of a training list of Kinetics, which has one clip per video.

    A list is CSV (`label,youtube_id,time_start,time_end,split`; 400 also with `is_cc`, some mirrors omit columns) or
    JSON (`{youtube_id: {"annotations": {"label": …, "segment": [start, end]}, "subset": …, "url": …}}`). Raises
    LilaError for a file in another format.
    """
    text = read_text(path)
    try:
        if path.suffix.lower() == ".json":
            entries = json.loads(text).items()
            videos = {video for video, entry in entries if str(entry.get("subset", "train")).startswith("train")}
        else:
            lines = text.splitlines()
            start = next(n for n, line in enumerate(lines) if "youtube_id" in line.lower())  # after `sep=;`
            separator = max(",;\t|", key=lines[start].count)
            rows = csv.DictReader(lines[start:], delimiter=separator, skipinitialspace=True)
            rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
            training = (row for row in rows if (row.get("split") or "train").strip().lower().startswith("train"))
            videos = {(row["youtube_id"] or "").strip() for row in training} - {""}
        found = "" if videos else "one without a training clip"
    except Exception as error:  # foreign text can raise anything
        found = f"another file ({type(error).__name__}: {error})".replace(": )", ")")
    if found:
        raise LilaError(
            f"{path}: expected a list of Kinetics (CSV with a column youtube_id, or the official JSON), found {found}; "
            "restore it, or take it away to use all clips of the training folder"
        )
    return videos


def max_pixels() -> int:
    """Return the most pixels of an image or a frame that are read: `$LILA_MAX_PIXELS`, else 179 million as in Pillow.

    A compressed file of a few megabytes can hold more pixels than memory does.
    """
    value = os.environ.get(MAX_PIXELS_VARIABLE, "178956970")
    if not value.isdecimal():
        raise LilaError(f"expected a number of pixels in ${MAX_PIXELS_VARIABLE}, found {value!r}")
    return int(value)


def check_pixels(path: Path, pixels: int) -> None:
    """Raise LilaError for an image or a frame of more pixels than `max_pixels`."""
    if pixels > max_pixels():
        raise LilaError(
            f"{path} has {pixels / 1e6:.4g} million pixels, more than {max_pixels() / 1e6:.4g}; crop or shrink it, or "
            f"raise the limit by --max-pixels before the command or ${MAX_PIXELS_VARIABLE}"
        )


def find_dataset(name: str, root: Path | None = None, option: str = "--root", create: bool = False) -> Path:
    """Return the absolute path of a data set: `root` if given, else `$LILA_DATA/NAME`, else `data/NAME`.

    Where there is no such folder, return the first place if `create` is set, else raise LilaError, which names `option`
    as the command line's option for `root` if there is none.
    """
    lila_data = os.environ.get("LILA_DATA")
    places = [Path(root)] if root is not None else [*([Path(lila_data, name)] if lila_data else []), Path("data", name)]
    folder = next((place for place in places if place.is_dir()), places[0] if create else None)
    if folder is None and root is not None:
        found = "a file" if Path(root).is_file() else "no folder"
        raise LilaError(f"expected the data set {name}, found {found} at {root}; name the folder that holds it")
    if folder is None:
        searched = " and ".join(map(str, places))
        hint = "" if lila_data else " (LILA_DATA is not set)"
        raise LilaError(
            f"expected the data set {name}, found no folder at {searched}{hint}; "
            f"pass {option} with the folder that holds it, or set LILA_DATA to the folder above {name}/"
        )
    return folder.absolute()
