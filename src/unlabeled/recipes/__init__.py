"""Published and recommended experiments, one function each.

A recipe looks at the facts of the data (how many images, how large, on what device) and returns a complete `Config`. Its
docstring says where it comes from, what it costs, what to expect and how to run it. Single fields are changed on the
command line or with `Config.replace`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from unlabeled.config import Config, DataFacts
from unlabeled.errors import ConfigError, unknown_name
from unlabeled.recipes.papers import (
    paper_deepcluster_alexnet,
    paper_deepcluster_vgg16,
    paper_nat_alexnet,
    paper_npid_alexnet,
    paper_npid_cifar,
    paper_npid_resnet18,
    paper_npid_resnet18_proximal,
    paper_npid_resnet50,
    paper_npid_vgg16,
    paper_pic_alexnet,
    paper_supervised_alexnet,
    paper_thesis_alexnet,
    paper_thesis_alexnet_flickr,
    paper_thesis_alexnet_rgb,
)
from unlabeled.recipes.recommended import (
    default,
    demo,
    random_network,
    small_images,
    small_instance,
    small_nat,
    small_pic,
    small_supervised,
)

SQUARE: dict[str, Any] = {"lr": 0.01, "momentum": 0.0, "head_momentum": 0.0, "weight_decay": 0.0}
"""What goes with the square loss of the supervised control unless another value is asked for."""

Recipe = Callable[[DataFacts], Config]

RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        default,
        small_images,
        demo,
        paper_deepcluster_alexnet,
        paper_deepcluster_vgg16,
        paper_pic_alexnet,
        paper_thesis_alexnet,
        paper_thesis_alexnet_rgb,
        paper_thesis_alexnet_flickr,
        small_pic,
        small_nat,
        small_instance,
        small_supervised,
        random_network,
        paper_nat_alexnet,
        paper_npid_resnet18,
        paper_npid_resnet18_proximal,
        paper_npid_resnet50,
        paper_npid_alexnet,
        paper_npid_vgg16,
        paper_npid_cifar,
        paper_supervised_alexnet,
    )
}


def configure(name: str, facts: DataFacts, changes: dict[str, Any]) -> Config:
    """The recipe called `name` for these data, with single fields changed.

    Raises:
        ConfigError: unknown recipe or field, or settings that do not go together.
    """
    if name not in RECIPES:
        raise ConfigError(unknown_name("recipe", name, RECIPES))
    if name in ("default", "demo"):
        # A method asked for by name brings the learning rate and momentum that belong to its loss.
        name = {"nat": "small_nat", "instance": "small_instance", "supervised": "small_supervised"}.get(
            str(changes.get("method")), name
        )
    config, changes = RECIPES[name](facts), dict(changes)
    if changes.get("supervised_loss") == "square" and changes.get("method", config.method) == "supervised":
        # The square loss is a sum over the batch: with the softmax's rate and momentum it collapses (NAT, section 4.1).
        for field, value in SQUARE.items():
            changes.setdefault(field, value)
    if "num_clusters" in changes:
        # Who says how many clusters there are means those that are shown, too.
        changes.setdefault("final_clusters", None)
    size = changes.get("image_size")
    if isinstance(size, int):
        # The sizes go together: one that was not named follows, in the recipe's proportion.
        scale = size / config.image_size
        for field in ("resize", "store_size"):
            changes.setdefault(field, round(getattr(config, field) * scale))
    if changes.get("subset") and changes.get("method", config.method) != "deepcluster":
        # The only subset there is where nothing is clustered; another one that was named is refused.
        changes.setdefault("subset_mode", "same")
    return config.replace(**changes) if changes else config


Condition = Mapping[str, tuple[str | bool, ...]]
"""Values of other settings, all of which must hold; True stands for any that is not 0."""

_DEEPCLUSTER: Condition = {"method": ("deepcluster",)}
_NAT: Condition = {"method": ("nat",)}
_SUPERVISED: Condition = {"method": ("supervised",)}
_GRAPH: Condition = _DEEPCLUSTER | {"clustering": ("pic", "pic_lin_cohen", "cliques")}
_AFFINITY: Condition = _DEEPCLUSTER | {"clustering": ("pic", "pic_lin_cohen")}
_PIC: Condition = _DEEPCLUSTER | {"clustering": ("pic",)}
_INSTANCE: Condition = {"method": ("instance",)}
_BANK: Condition = _INSTANCE | {"objective": ("softmax", "nce", "sampled")}

PERCEPTRONS = ("alexnet", "alexnet_fc6", "alexnet_nat", "vgg16")
"""Backbones whose feature may be below 0; that of the others is a mean of what a ReLU gave, so a ReLU more does nothing."""

NEEDS: dict[str, tuple[Condition, ...]] = {
    "mean": ({"normalize": ("dataset",)},),
    "std": ({"normalize": ("dataset",)},),
    "crop_area": ({"crop": ("random_resized",)},),
    "crop_ratio": ({"crop": ("random_resized",)},),
    "feature": ({"backbone": PERCEPTRONS},),
    "head": (_DEEPCLUSTER | {"backbone": PERCEPTRONS},),
    "clustering": (_DEEPCLUSTER,),
    "graph_neighbors": (_GRAPH,),
    "bandwidth": (_AFFINITY,),
    "damping": (_PIC,),
    "pic_iterations": (_AFFINITY,),
    "singletons": (_PIC,),
    "subset_mode": ({"subset": (True,)},),
    "loss_subset": (_DEEPCLUSTER, _SUPERVISED | {"supervised_loss": ("softmax",)}),
    "empty_clusters": (_DEEPCLUSTER | {"clustering": ("kmeans", "pic_lin_cohen")},),
    "reassign_every": (_DEEPCLUSTER,),
    "sampling": (_DEEPCLUSTER,),
    "embedding_dims": (_INSTANCE, _NAT | {"targets": ("sphere",)}),
    "targets": (_NAT,),
    "num_codes": (_NAT,),
    "permute_every": (_NAT,),
    "assignment": (_NAT | {"permute_every": (True,)},),
    "match": (_NAT | {"permute_every": (True,), "assignment": ("permutation",)},),
    "loss_reduction": (_NAT, _SUPERVISED | {"supervised_loss": ("square",)}),
    "objective": (_INSTANCE,),
    "num_negatives": (_INSTANCE | {"objective": ("nce", "sampled")},),
    "normaliser": (_INSTANCE | {"objective": ("nce",)},),
    "memory": (_BANK,),
    "memory_init": (_BANK,),
    "memory_momentum": (_BANK | {"memory": ("momentum",)},),
    "proximal_weight": (_BANK | {"memory": ("proximal",)},),
    "supervised_loss": (_SUPERVISED,),
    "schedule_steps": ({"schedule": ("steps",)},),
    "inverse_start": ({"schedule": ("inverse",)},),
    "inverse_gamma": ({"schedule": ("inverse",)},),
    "evaluate_every": ({"method": ("deepcluster", "nat", "instance")},),
}
"""A setting does something where one of these holds."""

ALWAYS = (
    *(
        "recipe",
        "method",
        "seed",
        "backbone",
        "stem",
        "normalize",
        "data_init",
        "init",
        "freeze_norm",
        "sync_batch_norm",
    ),
    *("image_size", "store_size", "resize", "crop", "flip"),
    *("brightness", "contrast", "saturation", "hue", "grey", "blur"),
    # What makes the clusters of a finished run and describes its features, whatever trained it.
    *(
        "num_clusters",
        "final_clusters",
        "pca_dims",
        "whiten",
        "normalize_rows",
        "kmeans_iterations",
        "subset",
        "temperature",
    ),
    *("epochs", "batch_size", "accumulate", "lr", "momentum", "weight_decay"),
    *("head_lr", "head_momentum", "schedule", "warmup"),
    *("precision", "compile", "save_minutes", "snapshot_every", "keep_checkpoints"),
)
"""Settings that every run reads."""


def without_effect(config: Config, given: Iterable[str]) -> list[str]:
    """Those of the settings `given` by a person that nothing reads beside the others, each with what it would need."""
    return [
        f"{name} (needs {' or '.join(map(_words, NEEDS[name]))})"
        for name in given
        if name in NEEDS and not any(_holds(condition, config) for condition in NEEDS[name])
    ]


def _holds(condition: Condition, config: Config) -> bool:
    return all(
        bool(getattr(config, name)) if True in values else getattr(config, name) in values
        for name, values in condition.items()
    )


def _words(condition: Condition) -> str:
    parts = [
        f"{name} above 0" if True in values else f"{name} {' or '.join(map(str, values))}"
        for name, values in condition.items()
    ]
    return " and ".join(parts)
