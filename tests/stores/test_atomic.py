"""Atomic file writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from stores.atomic import atomic_path


def test_the_file_is_renamed_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("some")
        assert not path.exists()
        temporary.write_text("all")
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
