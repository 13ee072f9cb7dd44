"""What explains clusters: measures against libraries, findings on made clusters, and colour as a nuisance (spec D14)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import unlabeled
from pictures import SETTINGS
from unlabeled import metrics
from unlabeled.data.image_statistics import COLOURS, Statistic, image_statistics
from unlabeled.data.sources import open_source
from unlabeled.errors import DataError
from unlabeled.evaluation.explain import Explanation, binned, correlation_ratio, explain

RANDOM = np.random.default_rng(0)


def number(name: str, values: np.ndarray) -> Statistic:
    return Statistic(name, "number", values, "darker", "brighter")


def colour(values: np.ndarray) -> Statistic:
    return Statistic("colour", "category", values.astype(float), "", "", COLOURS)


def by_name(found: Explanation) -> dict[str, float]:
    return {one.name: one.beyond_chance for one in found.statistics}


def test_the_correlation_ratio_is_the_r2_of_a_regression_on_membership():
    from sklearn.linear_model import LinearRegression

    labels = RANDOM.integers(0, 6, 200)
    values = labels * 0.3 + RANDOM.normal(size=200)
    fitted = LinearRegression().fit(np.eye(6)[labels], values).score(np.eye(6)[labels], values)
    assert correlation_ratio(values, labels) == pytest.approx(fitted, abs=1e-9)
    assert correlation_ratio(np.ones(200), labels) == 0


def test_bins_are_equally_filled():
    assert np.bincount(binned(RANDOM.normal(size=1000))).tolist() == [100] * 10
    assert len(np.unique(binned(np.array([1.0] * 90 + [2.0] * 10)))) <= 2


def test_chance_is_what_permutations_reach():
    labels = RANDOM.integers(0, 40, 800)
    found = explain([number("brightness", RANDOM.normal(size=800)), colour(RANDOM.integers(0, 8, 800))], labels)
    for one in found.statistics:
        assert not one.is_notable and abs(one.explained - one.chance) < 5 * one.chance_spread
    ratio = next(one for one in found.statistics if one.kind == "number")
    # The mean over all permutations is (K - 1) / (N - 1).
    assert ratio.chance == pytest.approx(39 / 799, abs=0.01)
    assert not found.traits and found.summary.startswith("No plain statistic")


def test_a_cluster_that_is_exposure_gets_a_sentence():
    labels = np.repeat(np.arange(8), 50)
    brightness = RANDOM.uniform(0.4, 0.8, 400)
    brightness[labels == 7] = RANDOM.uniform(0.1, 0.15, 50)
    hues = RANDOM.integers(3, 9, 400)
    hues[labels == 2] = COLOURS.index("blue")
    found = explain(
        [number("brightness", brightness), colour(hues), number("contrast", RANDOM.normal(size=400))], labels
    )
    texts = {trait.cluster: trait.text for trait in found.traits}
    assert set(texts) == {2, 7}
    assert "Cluster 7 is brightness: its images are darker than all others" in texts[7]
    assert "if that is exposure and not content, add colour jitter" in texts[7]
    assert "Cluster 2 is colour: 100 % of its images are 'blue'" in texts[2] and "--stem sobel" in texts[2]
    assert found.statistics[0].name == "brightness" and found.statistics[0].is_notable
    assert found.statistics[-1].name == "contrast" and not found.statistics[-1].is_notable
    assert (
        "2 clusters are set apart by one plain statistic (brightness 1, colour 1); the clearest: Cluster"
        in found.summary
    )
    assert [trait["images"] for trait in found.to_json()["traits"]] == [50, 50]


def test_how_far_a_cluster_is_set_apart_is_the_area_under_the_curve():
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([0, 1], [40, 160])
    values = np.where(labels == 0, RANDOM.normal(2, 0.3, 200), RANDOM.normal(0, 1, 200)).round(1)
    trait = explain([number("brightness", values)], labels).traits[0]
    nearness = -np.abs(values - np.median(values[labels == 0]))
    assert trait.set_apart == pytest.approx(2 * roc_auc_score(labels == 0, nearness) - 1, abs=1e-9)


def test_images_without_a_cluster_are_left_out_and_lengths_must_fit():
    with pytest.raises(DataError, match="brightness is of 3 images and the clusters of 2"):
        explain([number("brightness", np.ones(3))], np.zeros(2, np.int64))
    with pytest.raises(DataError, match="no image with a cluster"):
        explain([number("brightness", np.ones(2))], np.full(2, -1))
    labels = np.array([-1, *[0] * 6, *[1] * 6])
    found = explain([number("brightness", np.array([99.0, *[0.1] * 6, *[0.9] * 6]))], labels)
    assert found.statistics[0].explained == pytest.approx(1)


def coloured_shapes(folder: Path, count: int) -> tuple[Path, np.ndarray]:
    """Discs, squares, triangles and crosses of a hue that is independent of shape and brightness (spec D14)."""
    # All six colours have the same mean over the channels: else they would differ in brightness too, which edges show.
    random, tones = np.random.default_rng(7), np.array([[1.9, 0.3, 0.3], [1.45, 1.45, -0.4]])
    palette = np.concatenate([np.roll(tones, turn, axis=1) for turn in range(3)]) * 55 + 22
    shapes = np.arange(count) % 4
    folder.mkdir()
    for i, shape in enumerate(shapes.tolist()):
        tone = palette[int(random.integers(len(palette)))]
        fill = tuple((tone * random.uniform(0.8, 1.2)).astype(int).tolist())
        image = Image.new("RGB", (32, 32), (220, 220, 220))
        draw = ImageDraw.Draw(image)
        x, y, r = random.integers(13, 19), random.integers(13, 19), random.integers(8, 12)
        box = [int(x - r), int(y - r), int(x + r), int(y + r)]
        if shape == 0:
            draw.ellipse(box, fill)
        elif shape == 1:
            draw.rectangle(box, fill)
        elif shape == 2:
            draw.polygon([(box[0], box[3]), (box[2], box[3]), (int(x), box[1])], fill)
        else:
            draw.line([(box[0], int(y)), (box[2], int(y))], fill, 6)
            draw.line([(int(x), box[1]), (int(x), box[3])], fill, 6)
        image.save(folder / f"{i:03d}.png")
    return folder, shapes


def test_the_sobel_model_depends_less_on_colour_than_the_rgb_one(tmp_path: Path):
    folder, shapes = coloured_shapes(tmp_path / "shapes", 160)
    no_jitter = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0}
    colours: dict[str, float] = {}
    for stem in ("rgb", "sobel"):
        settings: dict[str, Any] = SETTINGS | no_jitter | {"stem": stem, "num_clusters": 8}
        run = unlabeled.train(folder, tmp_path / stem, cache=tmp_path / "cache", device="cpu", **settings)
        store = run.record.open(folder)
        statistics = image_statistics(store, open_source(folder))
        hues = next(one for one in statistics if one.name == "colour")
        assert metrics.nmi(hues.values, shapes) < 0.1  # independent, as the set was made
        found = explain([hues], run.catalogue.clusters.numpy())
        colours[stem] = by_name(found)["colour"]
    assert colours["sobel"] < colours["rgb"] - 0.1, colours
