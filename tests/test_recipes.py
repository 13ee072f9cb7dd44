"""Recipes: complete for any data, true to their paper, and documented with cost, expectation and command."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.config import Config, DataFacts
from unlabeled.errors import ConfigError
from unlabeled.models import build_backbone, known_backbones
from unlabeled.recipes import ALWAYS, NEEDS, PERCEPTRONS, RECIPES, configure, without_effect
from unlabeled.recipes.sizing import batch_for, clusters_for
from unlabeled.training.optim import learning_rate

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
    assert [clusters_for(n) for n in (1, 2, 30, 60, 600, 3000, 10**6)] == [1, 2, 10, 20, 20, 100, 1000]
    assert [batch_for(n, 64) for n in (1, 2, 50, 128, 10**6)] == [1, 1, 25, 64, 64]


def test_sizes_go_together():
    config = configure("default", PHOTOS, {"image_size": 128})
    assert (config.image_size, config.store_size, config.resize) == (128, 256, 144)
    assert configure("default", PHOTOS, {"image_size": 128, "resize": 200}).resize == 200
    given = {"image_size": 128}
    configure("default", PHOTOS, given)
    assert given == {"image_size": 128}, "what the caller gave may serve the next recipe too"


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


IMAGENET = DataFacts(1_281_167, 3, 400, 500, True, "cuda")
CIFAR = DataFacts(50_000, 3, 32, 32, True, "cuda")
NPID: dict[str, Any] = {
    # O08, N05, N07, N08, N10, B11, P09, and N01's bank as in the code
    "method": "instance", "image_size": 224, "stem": "rgb", "normalize": "dataset", "crop": "random_resized",
    "crop_area": (0.2, 1.0), "crop_ratio": (3 / 4, 4 / 3), "flip": "horizontal", "brightness": 0.4, "contrast": 0.4,
    "saturation": 0.4, "hue": 0.4, "grey": 0.2, "blur": 0.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    "embedding_dims": 128, "objective": "nce", "num_negatives": 4096, "temperature": 0.07, "normaliser": "first",
    "memory": "momentum", "memory_momentum": 0.5, "memory_init": "uniform", "epochs": 200, "batch_size": 256, "accumulate": 1,
    "lr": 0.03, "head_lr": None, "momentum": 0.9, "head_momentum": 0.9, "weight_decay": 1e-4, "schedule": "steps",
    "schedule_steps": (120, 160), "warmup": 0.0, "subset": 0,
}  # fmt: skip
DEEPCLUSTER: dict[str, Any] = {
    # O01, O02, O03, O04, C01, C05, P01, P05, P07, B10, T07
    "method": "deepcluster", "backbone": "alexnet", "stem": "sobel", "normalize": "dataset", "image_size": 224, "resize": 256,
    "crop": "random_resized", "crop_area": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3), "flip": "horizontal", "brightness": 0.0,
    "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    "feature": "before_relu", "head": "linear", "pca_dims": 256, "whiten": True, "normalize_rows": True, "reassign_every": 1.0,
    "sampling": "uniform", "subset": 0, "loss_subset": 0, "epochs": 500, "batch_size": 256, "lr": 0.05, "head_lr": None,
    "momentum": 0.9, "head_momentum": 0.0, "weight_decay": 1e-5, "schedule": "constant", "warmup": 0.0,
}  # fmt: skip
PUBLISHED: dict[str, tuple[DataFacts, dict[str, Any]]] = {
    # O05, O06, B02, P02, P08, M02, T01, trap 2
    "paper_nat_alexnet": (IMAGENET, {
        "method": "nat", "backbone": "alexnet_nat", "stem": "sobel_nat", "normalize": "image", "image_size": 224,
        "store_size": 256, "resize": 256, "crop": "random", "flip": "horizontal", "brightness": 0.0, "contrast": 0.0,
        "saturation": 0.0, "hue": 0.0, "grey": 0.0, "blur": 0.0, "embedding_dims": 2048, "targets": "sphere", "num_codes": 0,
        "permute_every": 3, "assignment": "permutation", "match": "rank", "loss_reduction": "sum", "epochs": 100,
        "batch_size": 256, "accumulate": 1, "lr": 0.01, "head_lr": None, "momentum": 0.0, "head_momentum": 0.0,
        "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0, "data_init": False, "subset": 0,
    }),
    # C10, C11, C14
    "paper_pic_alexnet": (IMAGENET, DEEPCLUSTER | {
        "clustering": "pic", "graph_neighbors": 5, "bandwidth": 0.2, "damping": 0.001, "pic_iterations": 200,
        "singletons": "attach", "sampling": "cluster_then_member",
    }),
    "paper_thesis_alexnet": (IMAGENET, DEEPCLUSTER | {
        "clustering": "kmeans", "num_clusters": 10_000, "kmeans_iterations": 20, "lr": 0.02,
        "sampling": "cluster_then_member", "empty_clusters": "halve",
    }),
    # Thesis table 5.1, rows km-RGB and km-fl1M; O03
    "paper_thesis_alexnet_rgb": (IMAGENET, DEEPCLUSTER | {
        "stem": "rgb", "num_clusters": 1000, "weight_decay": 1e-6, "lr": 0.02, "sampling": "cluster_then_member",
    }),
    "paper_thesis_alexnet_flickr": (IMAGENET, DEEPCLUSTER | {
        "reassign_every": 3, "epochs": 501, "lr": 0.02, "sampling": "cluster_then_member",
    }),
    # M12, A13
    "paper_supervised_alexnet": (IMAGENET, {
        "method": "supervised", "backbone": "alexnet", "stem": "rgb", "image_size": 224, "epochs": 90, "batch_size": 256,
        "flip": "horizontal", "schedule": "steps", "schedule_steps": (30, 60),
    }),
    # N09
    "paper_npid_resnet18_proximal": (IMAGENET, NPID | {"backbone": "resnet18", "memory": "proximal", "memory_init": "sphere"}),
    "paper_npid_resnet18": (IMAGENET, NPID | {"backbone": "resnet18"}),
    "paper_npid_resnet50": (IMAGENET, NPID | {"backbone": "resnet50"}),
    "paper_npid_alexnet": (IMAGENET, NPID | {"backbone": "alexnet"}),
    "paper_npid_vgg16": (IMAGENET, NPID | {"backbone": "vgg16"}),
    # O09, P10, N07, trap 3; its test view is the image itself
    "paper_npid_cifar": (CIFAR, NPID | {
        "backbone": "resnet18_small", "image_size": 32, "store_size": 32, "resize": 32, "flip": "none",
        "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010), "objective": "softmax", "temperature": 0.1,
        "batch_size": 128, "weight_decay": 5e-4,
    }),
}  # fmt: skip
"""What papers and released codes say, as the specification of this project collects it; its items stand beside."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_recipes_are_as_published(name: str):
    facts, wanted = PUBLISHED[name]
    config = configure(name, facts, {})
    assert {field: getattr(config, field) for field in wanted} == wanted


def test_every_published_recipe_is_pinned():
    pinned = {"paper_deepcluster_alexnet", "paper_deepcluster_vgg16", *PUBLISHED}
    assert {name for name in RECIPES if name.startswith("paper_")} == pinned


def test_a_published_rate_follows_its_schedule():
    """Divided by ten after 120 and 160 of 200 epochs (O08, O09); Noise As Targets stays at 0.01 (O05)."""
    for name in ("paper_npid_resnet50", "paper_npid_cifar"):
        config = configure(name, PUBLISHED[name][0], {})
        rates = [learning_rate(config, epoch) for epoch in (0, 119.9, 120, 159.9, 160, 199)]
        assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
    nat = configure("paper_nat_alexnet", IMAGENET, {})
    assert {learning_rate(nat, epoch) for epoch in range(100)} == {0.01}


def test_every_setting_is_read_always_or_where_it_is_said():
    assert sorted([*NEEDS, *ALWAYS]) == sorted(Config.model_fields)
    for conditions in NEEDS.values():
        for condition in conditions:
            for name, values in condition.items():
                assert name in Config.model_fields
                # Each value is one the setting can take.
                start = Config(num_codes=5, inverse_gamma=1.0)
                assert True in values or all(start.replace(**{name: value}) for value in values)


def test_only_perceptrons_give_features_below_zero():
    for name in known_backbones():
        backbone = build_backbone(name, image_size=64).eval()
        with torch.no_grad():
            feature = backbone(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
        assert bool((feature < 0).any()) == (name in PERCEPTRONS), name


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "nat", "reassign_every": 2.0}, ["reassign_every (needs method deepcluster)"]),
        (
            {"method": "nat", "targets": "onehot", "num_codes": 5, "embedding_dims": 8},
            ["embedding_dims (needs method instan"],
        ),
        ({"bandwidth": 0.3}, ["bandwidth (needs method deepcluster and clustering pic or pic_lin_cohen)"]),
        (
            {"method": "supervised", "loss_subset": 5, "supervised_loss": "square"},
            ["loss_subset (needs method deepcluster or "],
        ),
        ({"method": "supervised", "loss_subset": 5}, []),
        (
            {"method": "instance", "objective": "nce", "num_negatives": 5, "proximal_weight": 1.0},
            ["proximal_weight (needs"],
        ),
        ({"subset_mode": "same"}, ["subset_mode (needs subset above 0)"]),
        ({"method": "nat", "subset": 5, "temperature": 0.1, "pca_dims": 5}, []),
        ({"feature": "after_relu"}, ["feature (needs backbone alexnet or "]),
        ({"feature": "after_relu", "backbone": "alexnet_fc6", "image_size": 64, "resize": 64, "store_size": 64}, []),
        (
            {"inverse_start": 5.0, "crop": "center", "crop_area": (0.5, 1.0)},
            ["inverse_start (needs", "crop_area (needs crop"],
        ),
    ],
)
def test_given_settings_that_nothing_reads_are_named(settings: dict[str, Any], named: list[str]):
    """Only those a person gave: recipes carry many that do not concern their method."""
    given = dict(settings)
    found = without_effect(configure("default", PHOTOS, settings), given)
    assert len(found) == len(named)
    for sentence, beginning in zip(found, named, strict=True):
        assert sentence.startswith(beginning)


def test_a_subset_is_fixed_where_nothing_is_clustered():
    assert configure("default", PHOTOS, {"subset": 9}).subset_mode == "resampled"
    assert configure("small_instance", PHOTOS, {"subset": 9}).subset_mode == "same"
    assert configure("default", PHOTOS, {"subset": 9, "method": "supervised"}).subset_mode == "same"
    with pytest.raises(ConfigError, match="must be 'same' with method 'nat'"):
        configure("default", PHOTOS, {"subset": 9, "method": "nat", "subset_mode": "resampled"})


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        configure("defualt", PHOTOS, {})
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        configure("default", PHOTOS, {"epoch": 1})
    with pytest.raises(ConfigError, match="image_size = '64'"):
        configure("default", PHOTOS, {"image_size": "64"})
    assert isinstance(configure("default", PHOTOS, {}), Config)


def test_the_square_loss_of_the_control_brings_its_own_rate():
    facts = DataFacts(3000, 3, 64, 64, True)
    square = configure("default", facts, {"method": "supervised", "supervised_loss": "square"})
    assert (square.lr, square.momentum, square.head_momentum, square.weight_decay) == (0.01, 0.0, 0.0, 0.0)
    assert configure("default", facts, {"method": "supervised", "supervised_loss": "square", "lr": 0.1}).lr == 0.1
    assert configure("default", facts, {"method": "supervised"}).momentum == 0.9
