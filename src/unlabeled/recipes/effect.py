"""Which settings do something beside which others, so that one that was given and does nothing is named.

A `Config` always has all its fields, whatever the method: recipes carry many that do not concern it, and that is no mistake.
A setting that a person gave and that nothing reads is one, or at least not what was meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from unlabeled.config import Config

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
    *("recipe", "method", "seed", "backbone", "stem", "normalize", "data_init", "sync_batch_norm"),
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
