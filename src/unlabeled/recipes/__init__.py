"""Published and recommended experiments, one function each.

A recipe looks at the facts of the data (how many images, how large, on what device) and returns a complete `Config`. Its
docstring says where it comes from, what it costs, what to expect and how to run it. Single fields are changed on the
command line or with `Config.replace`.
"""

from __future__ import annotations

from collections.abc import Callable
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
