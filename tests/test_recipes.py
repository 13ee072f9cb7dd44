"""Recipes: complete for any data, true to their paper, and documented with cost, expectation and command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.config import Config, DataFacts
from unlabeled.errors import ConfigError
from unlabeled.recipes import RECIPES, configure
from unlabeled.recipes.sizing import batch_for, clusters_for

PHOTOS = DataFacts(5000, 3, 300, 400, True)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("channels", [1, 3, 6])
def test_every_recipe_is_complete(name: str, device: str, channels: int):
    facts = DataFacts(5000, channels, 300, 400, channels == 3, device)  # pyright: ignore
    config = configure(name, facts, {})
    assert config.recipe == name
    assert config.mean is None or len(config.mean) == channels


@pytest.mark.parametrize("recipe", RECIPES.values())
def test_every_recipe_says_how_to_run_it(recipe: object):
    assert "`" in str(recipe.__doc__) and "unlabeled " in str(recipe.__doc__)


@given(count=st.integers(2, 10**6), side=st.integers(1, 4000))
def test_the_default_fits_any_folder(count: int, side: int):
    config = configure("default", DataFacts(count, 3, side, side, True), {})
    assert 1 <= config.num_clusters <= count
    assert 1 <= config.batch_size <= count


def test_clusters_and_batches_for_few_and_many():
    assert [clusters_for(n) for n in (1, 2, 30, 60, 600, 3000, 10**6)] == [1, 1, 10, 20, 20, 100, 1000]
    assert [batch_for(n, 64) for n in (1, 2, 50, 128, 10**6)] == [1, 1, 25, 64, 64]


def test_sizes_go_together():
    config = configure("default", PHOTOS, {"image_size": 128})
    assert (config.image_size, config.store_size, config.resize) == (128, 256, 144)
    assert configure("default", PHOTOS, {"image_size": 128, "resize": 200}).resize == 200


def test_paper_deepcluster_is_the_paper():
    """Caron et al. 2018, sections 3.3, 3.4 and 4.1."""
    config = configure("paper_deepcluster_alexnet", DataFacts(1_281_167, 3, 400, 500, True, "cuda"), {})
    wanted = {
        "stem": "sobel",
        "num_clusters": 10_000,
        "pca_dims": 256,
        "whiten": True,
        "normalize_rows": True,
        "batch_size": 256,
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-5,
        "epochs": 500,
        "reassign_every": 1,
        "sampling": "uniform",
        "head_momentum": 0.0,
        "image_size": 224,
        "schedule": "constant",
    }
    assert {name: getattr(config, name) for name in wanted} == wanted
    vgg = configure("paper_deepcluster_vgg16", DataFacts(1_281_167, 3, 400, 500, True, "cuda"), {})
    assert vgg == config.replace(recipe="paper_deepcluster_vgg16", backbone="vgg16")


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        configure("defualt", PHOTOS, {})
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        configure("default", PHOTOS, {"epoch": 1})
    with pytest.raises(ConfigError, match="image_size = '64'"):
        configure("default", PHOTOS, {"image_size": "64"})
    assert isinstance(configure("default", PHOTOS, {}), Config)
