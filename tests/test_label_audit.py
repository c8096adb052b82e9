"""Suspicious labels: wrong ones are found, right ones hardly, each with a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import make_chips, make_scene

import geobiomass as gb
from geobiomass.report.label_audit import scores


def labelled(count: int = 160, wrong: int = 6) -> tuple[xr.Dataset, set[tuple]]:
    """Return a scene with some labels of single pixels, and those that are wrong."""
    scene = make_scene(96, 96, bands=("VV_asc", "B02", "B03", "B04", "B08"))
    scene["image"] = scene["image"].fillna(1000.0)
    truth = scene["agb"].values
    draw = np.random.default_rng(3)
    at = draw.choice(truth.size, count, replace=False)
    labels = np.full(truth.shape, np.nan, np.float32)
    labels.flat[at] = truth.flat[at]
    broken = at[:wrong]
    labels.flat[broken] += np.where(truth.flat[broken] < 150, 400, -400)
    places = {tuple(divmod(int(one), truth.shape[1])) for one in broken}
    return scene.assign(agb=scene["agb"].copy(data=labels)), places


@pytest.fixture(scope="module")
def found() -> tuple[gb.labels.LabelAudit, set[tuple]]:
    cube, places = labelled()
    audit = gb.labels.audit(cube, folds=3, block=32, trees=60, progress=False)
    return audit, places


def test_wrong_labels_are_found(found) -> None:
    audit, places = found
    table = audit.table
    assert audit.labels == 160
    at = set(zip(table["row"], table["column"], strict=True))
    assert places <= at
    assert len(at - places) <= 8
    # The most suspicious come first.
    assert {*zip(table["row"][:6], table["column"][:6], strict=True)} == places
    assert table["score"].abs().is_monotonic_decreasing
    np.testing.assert_allclose(
        table["difference"], table["observed"] - table["predicted"]
    )
    row = table.iloc[0]
    assert row["x"] == audit.cube["x"].values[int(row["column"])]
    assert row["y"] == audit.cube["y"].values[int(row["row"])]
    assert table.attrs["units"] == "Mg/ha"
    assert "of 160 labels differ from what models predict" in str(audit)


@pytest.mark.slow
def test_it_is_shown_and_written_with_a_picture_each(found, tmp_path: Path) -> None:
    audit, _ = found
    html = audit._repr_html_()
    assert html.count("<img") == min(20, len(audit))
    path = audit.write(tmp_path / "labels.html")
    text = path.read_text()
    assert text.count("<img") == html.count("<img")
    assert "Suspicious labels" in text
    audit.write(path)  # its own file
    other = tmp_path / "other.html"
    other.write_text("<html>mine</html>")
    with pytest.raises(FileExistsError, match="no audit of labels of this package"):
        audit.write(other)
    assert other.read_text() == "<html>mine</html>"


def test_a_score_is_among_labels_that_are_predicted_alike() -> None:
    draw = np.random.default_rng(0)
    predicted = np.linspace(0, 300, 2000)
    observed = predicted + draw.normal(0, 1 + predicted / 10)  # errors grow with it
    observed[[50, 1950]] += 20
    found = scores(observed, predicted)
    # Twenty are very unusual where forest is low, and usual where it is tall.
    assert found[50] > 5 > 3.5 > abs(found[1950])
    assert (np.abs(found) > 3.5).mean() < 0.01
    known = np.full(2000, 1.0)
    known[50] = 40.0  # a label that is known to be poor
    assert scores(observed, predicted, known)[50] < 1
    np.testing.assert_allclose(scores(observed, predicted, 0 * known), found)
    assert (scores(np.full(40, 5.0), np.full(40, 5.0)) == 0).all()


@pytest.mark.slow
def test_models_cross_validations_and_chips_are_audited(found) -> None:
    audit, _ = found
    cube, _ = labelled()
    settings = {"block": 32, "trees": 60, "progress": False}
    model = gb.fit(cube, "pixels", **settings)
    with pytest.raises(gb.CubeError, match=r"gb\.labels\.audit\(model, cube\)"):
        gb.labels.audit(model)
    again = gb.labels.audit(model, cube, folds=3, progress=False)
    assert again.table.equals(audit.table)
    validated = gb.cross_validate(cube, "pixels", 3, **settings)
    assert gb.labels.audit(validated).table.equals(audit.table)
    strict = gb.labels.audit(validated, threshold=12, pictures=1)
    assert 0 < len(strict) < len(audit)
    assert strict._repr_html_().count("<img") == 1
    chips = make_chips(12)
    chips["image"] = chips["image"].fillna(1000.0)
    values = chips["agb"].values.copy()
    values[3, 5, 6] = 2000
    of_chips = gb.labels.audit(
        chips.assign(agb=chips["agb"].copy(data=values)),
        folds=3,
        trees=20,
        progress=False,
    )
    first = of_chips.table.iloc[0]
    assert (first["chip"], first["row"], first["column"]) == ("chip003", 5, 6)
    assert "<img" in of_chips._repr_html_()


def test_what_cannot_be_audited_is_one_clear_sentence() -> None:
    cube, _ = labelled(15, 0)
    with pytest.raises(ValueError, match="threshold must be above 0"):
        gb.labels.audit(cube, threshold=0)
    with pytest.raises(gb.CubeError, match=r"needs 20 labels or more .*, got 15"):
        gb.labels.audit(cube, folds=3, block=32, trees=20, progress=False)
    with pytest.raises(gb.CubeError, match="agb"):
        gb.labels.audit(cube.drop_vars("agb"))
