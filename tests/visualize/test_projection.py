from __future__ import annotations

import numpy as np
import pytest

from unlabeled.errors import DataError
from unlabeled.report import projection
from unlabeled.report.projection import project


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """600 unit rows around 12 centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 40))
    found = centres[np.arange(600) % 12] + 0.4 * rng.normal(size=(600, 40))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_neighbours_stay_neighbours_for_landmarks_and_for_the_others(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.manifold import trustworthiness

    monkeypatch.setattr(projection, "LANDMARKS", 200)
    monkeypatch.setattr(projection, "ITERATIONS", 300)
    places = project(rows)
    assert places.shape == (600, 2)
    assert places.dtype == np.float32
    assert (places.min(0) == 0).all()
    assert (places.max(0) == 1).all()
    random = np.random.default_rng(1).random((600, 2))
    assert trustworthiness(rows, places, n_neighbors=10) > 0.85
    assert trustworthiness(rows, random, n_neighbors=10) < 0.6
    # Equal every time, and another seed draws other landmarks.
    assert np.array_equal(project(rows), places)
    assert not np.array_equal(project(rows, seed=1), places)


def test_the_map_of_all_agrees_with_that_of_a_sample(rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.manifold import trustworthiness

    monkeypatch.setattr(projection, "LANDMARKS", 100)
    monkeypatch.setattr(projection, "ITERATIONS", 300)
    sample = np.arange(0, 600, 4)
    alone = project(rows[sample])
    told: list[int] = []
    everything = project(rows, sample=sample, update=told.append)
    assert np.abs(everything[sample] - alone).max() < 1e-5
    assert told == [600]
    assert trustworthiness(rows, everything, n_neighbors=10) > 0.8

    def refused(*_: object) -> None:
        raise AssertionError

    # Places that are known are not made again.
    monkeypatch.setattr(projection, "_embedded", refused)
    assert np.abs(project(rows, sample=sample, placed=alone) - everything).max() < 1e-5
    with pytest.raises(DataError, match=r"150, \(3, 2\)"):
        project(rows, sample=sample, placed=alone[:3])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_lie_on_their_principal_components(count: int) -> None:
    rows = np.eye(count, 3, dtype=np.float32)
    places = project(rows)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_equal_images_and_one_dimension_have_places() -> None:
    assert np.isfinite(project(np.ones((20, 4), np.float32))).all()
    line = project(np.linspace(0, 1, 5, dtype=np.float32)[:, None])
    assert sorted(line[:, 0].tolist()) in (line[:, 0].tolist(), line[::-1, 0].tolist())


def test_what_is_no_feature_is_refused() -> None:
    with pytest.raises(DataError, match="finite features"):
        project(np.full((3, 2), np.nan, np.float32))
    with pytest.raises(DataError, match=r"\(0, 2\)"):
        project(np.zeros((0, 2), np.float32))
