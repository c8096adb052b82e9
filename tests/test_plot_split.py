"""An audit sample of plots: by chance, by strata, in whole clusters."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
from conftest import make_scene
from hypothesis import given
from hypothesis import strategies as some

import geobiomass as gb


def plots(count: int = 60) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "lon": 20 + np.arange(count) * 1e-3,
            "lat": 60 + draw.uniform(0, 1, count),
            "agb": draw.gamma(2, 50, count),
            "forest": np.resize(["pine", "pine", "spruce", "birch"], count),
            "site": np.arange(count) // 3,
        }
    )


def test_the_share_is_drawn_and_nothing_is_lost() -> None:
    table = plots()
    training, audit = gb.labels.split(table, 0.3)
    assert (len(training), len(audit)) == (42, 18)
    both = pd.concat([training, audit[table.columns]]).sort_index()
    pd.testing.assert_frame_equal(both, table)
    assert (audit["audit_probability"] == 0.3).all()
    assert "audit_probability" not in training
    assert audit.attrs["split"]["drawn"] == 18
    assert audit.index.is_monotonic_increasing
    again = gb.labels.split(table, 0.3)
    pd.testing.assert_frame_equal(again.audit, audit)
    other = gb.labels.split(table, 0.3, seed=1).audit
    assert not other.index.equals(audit.index)


@pytest.mark.slow
def test_each_plot_has_the_chance_that_is_told() -> None:
    table = plots(16)
    drawn = np.zeros(16)
    for seed in range(500):
        audit = gb.labels.split(table, 0.25, by="forest", seed=seed).audit
        drawn[audit.index] += 1
        told = audit["audit_probability"]
    # Strata of 8, 4 and 4 plots: two of each are drawn.
    chance = np.where(table["forest"] == "pine", 0.25, 0.5)
    np.testing.assert_allclose(drawn / 500, chance, atol=0.07)
    np.testing.assert_array_equal(told, chance[told.index])


def test_strata_have_their_share_and_two_at_least() -> None:
    table = plots()
    audit = gb.labels.split(table, 0.2, by="forest").audit
    assert audit["forest"].value_counts().to_dict() == {
        "pine": 6,
        "spruce": 3,
        "birch": 3,
    }
    assert (audit["audit_stratum"] == audit["forest"]).all()
    few = gb.labels.split(table, 0.01, by=["forest"]).audit
    assert few["forest"].value_counts().to_dict() == dict.fromkeys(
        ["pine", "spruce", "birch"], 2
    )
    crossed = table.assign(owner=np.resize(["a", "b", "a", "a", "b"], 60))
    two = gb.labels.split(crossed, 0.4, by=["forest", "owner"]).audit
    assert set(two["audit_stratum"]) == set(crossed["forest"] + ", " + crossed["owner"])


@given(
    share=some.floats(0.05, 0.95),
    seed=some.integers(0, 100),
    places=some.lists(some.integers(0, 20), min_size=12, max_size=40),
    clustered=some.booleans(),
)
def test_clusters_and_places_are_never_torn(
    share: float, seed: int, places: list[int], clustered: bool
) -> None:
    at = np.array([0, 1, 2, 3, *places])  # four places or more
    table = pd.DataFrame({"lon": at / 10.0, "lat": 50.0, "site": at // 2})
    sites = len(set(table["site"]))
    if clustered and sites < 4:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        training, audit = gb.labels.split(
            table, share, cluster="site" if clustered else None, seed=seed
        )
    column = "site" if clustered else "lon"
    assert not set(training[column]) & set(audit[column])
    assert len(training) + len(audit) == len(table)
    assert min(len(training), len(audit)) > 0


def test_plots_at_one_place_are_told_and_drawn_together(tmp_path: Path) -> None:
    table = plots(20)
    table.loc[[3, 4, 5], ["lon", "lat"]] = 21.0, 60.5
    with pytest.warns(UserWarning, match="2 of 20 plots lie at the place of another"):
        audit = gb.labels.split(table).audit
    assert len(set(table.index[3:6]) & set(audit.index)) in (0, 3)
    points = geopandas.points_from_xy(table["lon"], table["lat"])
    frame = geopandas.GeoDataFrame(table, geometry=points, crs=4326)
    frame.to_file(tmp_path / "plots.gpkg")
    with pytest.warns(UserWarning, match="place of another"):
        same = gb.labels.split(tmp_path / "plots.gpkg")
    assert isinstance(same.audit, geopandas.GeoDataFrame)
    assert same.audit["agb"].tolist() == audit["agb"].tolist()
    assert same.training.crs == 4326


def test_both_parts_are_labels_and_plots() -> None:
    from pyproj import Transformer

    scene = make_scene()
    draw = np.random.default_rng(1)
    rows, columns = draw.integers(0, 40, 30), draw.integers(0, 56, 30)
    lon, lat = Transformer.from_crs(3067, 4326, always_xy=True).transform(
        scene["x"].values[columns], scene["y"].values[rows]
    )
    table = pd.DataFrame({"lon": lon, "lat": lat, "agb": draw.gamma(2, 50, 30)})
    training, audit = gb.labels.split(table, 0.3)
    cube = gb.with_labels(scene, training)
    assert cube["agb"].attrs["plots"] == len(training) == 21
    total = gb.totals(scene["agb"], plots=audit, progress=False)
    assert total["plots"].tolist() == [9]


def test_what_cannot_be_split_is_one_clear_sentence(tmp_path: Path) -> None:
    table = plots(12)
    wrong = {
        "share": ({"audit": 1.0}, r"above 0 and below 1, such as 0\.3, got 1\.0"),
        "truth": ({"audit": True}, "above 0 and below 1"),
        "column": (
            {"by": "forests"},
            "has no column 'forests'",
        ),
        "numbers": ({"by": "agb"}, "Each stratum of the table must have 2 places"),
        "torn": (
            {"by": "forest", "cluster": "site"},
            "Each of the different 'site' must be in one stratum, got 4 in several",
        ),
        "few": ({"cluster": "half"}, "needs 4 different 'half' or more, got 2"),
    }
    table["half"] = np.arange(12) // 6
    for name, (settings, sentence) in wrong.items():
        with pytest.raises(gb.CubeError, match=sentence) as caught:
            gb.labels.split(table, **settings)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value), name
    with pytest.raises(gb.CubeError, match="60 different values in the table; join"):
        gb.labels.split(plots(60), by="agb")
    table.loc[2, "forest"] = None
    with pytest.raises(gb.CubeError, match="1 of 12 plots of the table have no value"):
        gb.labels.split(table, by="forest")
    with pytest.raises(gb.CubeError, match="needs 4 places or more, got 3"):
        gb.labels.split(table.head(3))
    with pytest.raises(gb.CubeError, match="there is no such file"):
        gb.labels.split(tmp_path / "plots.csv")
    with pytest.raises(gb.CubeError, match="a path or a table, got list"):
        gb.labels.split([1, 2])
