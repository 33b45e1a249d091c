"""Statistics that add, flow confidence, and the tables and pictures of `lila-cues inspect`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stores
from lila_cues.viz import html, pictures
from lila_cues.viz.inspection import pair_row, statistics, summary, tables
from lila_cues.viz.pictures import confidence
from tests.lila_cues.viz.test_html import check_self_contained
from tests.stores import worlds


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    store = worlds.create(tmp_path_factory.mktemp("inspection") / "cues.zarr", 6)
    worlds.fill(store, failing=[1])
    return store


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32) | st.just(float("nan")), max_size=30), st.integers(0, 30))
def test_statistics_of_parts_are_those_of_all_values(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)
    total, parts = statistics([array]), statistics([array[:cut], array[cut:]])
    assert (total[0], total[2], total[4]) == (parts[0], parts[2], parts[4])
    finite = array[np.isfinite(array)].astype(np.float64)
    assert total[4] == pytest.approx(1 - finite.size / max(1, array.size) if array.size else 0)
    _, mean, _, std, _ = parts
    if finite.size:
        assert (total[0], total[2]) == (finite.min(), finite.max())
        assert mean == pytest.approx(finite.mean(), abs=1e-6)
        assert std == pytest.approx(finite.std(), abs=1e-3)
    else:
        assert np.isnan(mean)
        assert np.isnan(std)


def constant(x: float, y: float, size: tuple[int, int] = (12, 30)) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.float32)[:, None, None], (2, *size)).copy()


def test_consistent_flow_has_confidence_one() -> None:
    np.testing.assert_allclose(confidence(constant(3, -2), constant(-3, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize(("x", "y", "error"), [(3.0, 0.0, 3 * 2 / 30), (0.0, 3.0, 3 * 2 / 12)])
def test_disagreement_is_in_half_image_units_of_each_axis(x: float, y: float, error: float) -> None:
    np.testing.assert_allclose(confidence(constant(x, y), constant(0, 0)), np.exp(-error / 0.05), rtol=1e-4)


def test_backward_flow_is_taken_where_forward_flow_points() -> None:
    forward, backward = constant(4.5, 0), constant(0, 0)
    backward[0, :, 20:] = -4.5
    trusted = confidence(forward, backward) > 0.99
    assert trusted[:, 16:].all()  # 16 + 4.5 lies between 20 and 21
    assert not trusted[:, :15].any()


def test_missing_flow_has_no_confidence() -> None:
    forward, backward = constant(1, 0), constant(-1, 0)
    forward[:, 2, 3], backward[:, 5, 8] = np.nan, np.nan
    found = confidence(forward, backward)
    assert np.isnan(found[2, 3])
    assert np.isnan(found[5, 7])
    assert np.isnan(found).sum() < 6


def test_tables_have_a_row_for_every_array(store: stores.CueStore) -> None:
    (heads, lines), (_, numbers) = tables(store, [0, 2])
    assert [line[0] for line in lines] == list(store.arrays)
    assert {len(line) for line in lines} == {len(heads)}
    depth = next(line for line in numbers if line[0] == "depth")
    values = np.stack([worlds.cues(clip).depth for clip in (0, 2)])
    assert float(depth[2]) == pytest.approx(np.nanmean(values), rel=1e-3)
    assert depth[5] == f"{np.isnan(values).mean():.2%}"


def test_a_pair_is_drawn_with_all_its_cues(store: stores.CueStore) -> None:
    shown = pair_row(store, 2, 1)
    assert store.clip_id(2) in shown.title
    cues, by_name = store.pair(2, 1), {figure.name: figure for figure in shown.figures}
    assert len(by_name) == 9
    np.testing.assert_array_equal(by_name["Frame t"].picture, cues.rgb[0])
    np.testing.assert_array_equal(by_name["Frame t+Δ"].picture, cues.rgb[1])
    assert by_name["Frame t+Δ"].detail.startswith(f"Δ = {cues.gap} frame")
    agreement = confidence(cues.flow_forward, cues.flow_backward)
    np.testing.assert_array_equal(by_name["Confidence"].picture, pictures.confidence_picture(agreement))
    assert f"{100 * (agreement > 0.5).mean():.0f} % valid" in by_name["Confidence"].detail
    longest = np.nanpercentile(np.hypot(*np.stack([cues.flow_forward, cues.flow_backward], axis=1)), 98)
    assert by_name["Flow t → t+Δ"].detail == f"full color at {longest:.1f} px"


def test_the_page_is_self_contained(store: stores.CueStore, tmp_path: Path) -> None:
    (arrays, numbers), rows = tables(store, [0, 2]), [pair_row(store, 0, 1)]
    content = {"summary": summary(store), "rows": rows, "arrays": arrays, "numbers": numbers}
    html.render("inspection.html", tmp_path / "index.html", title=store.path, **content)
    text = (tmp_path / "index.html").read_text()
    check_self_contained(text)
    assert text.count("data:image/png;base64,") == 7
    assert text.count("data:image/jpeg;base64,") == 2
    assert text.count("<tr><td>") == len(arrays[1]) + len(numbers[1])
    assert "5 complete, 1 failed" in text
