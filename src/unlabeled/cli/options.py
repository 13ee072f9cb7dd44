"""The settings as flags of the command line: one for every field of `Config`, in sections, all optional."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field, create_model

from unlabeled.config import Config
from unlabeled.recipes import RECIPES

BACKBONES = (
    *("alexnet", "alexnet_fc6", "alexnet_nat", "alexnet_small", "resnet18", "resnet18_small"),
    *("efficientnet_lite0", "resnet50", "resnet101", "vgg16"),
)
"""As `models.known_backbones`, which would import torch before a word of help is printed."""

SECTIONS = {
    "method": "method",
    "backbone": "network",
    "image_size": "views",
    "clustering": "clustering",
    "embedding_dims": "Noise As Targets, instance discrimination, supervised",
    "epochs": "optimisation",
    "evaluate_every": "watching and saving",
}
"""A section of settings begins at this field of `Config` and reaches to the next."""

RecipeName = Annotated[str, Parameter(help=f"Which experiment to begin from: {', '.join(RECIPES)}.")]


def _without_limits(kind: Any) -> Any:
    """The plain type of a setting: `Config` checks its limits, and can name the whole value."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _without_limits(parts[0])
    if origin is tuple:
        return tuple[*(_without_limits(part) for part in parts)]
    return Union[*(_without_limits(part) for part in parts)] if origin in (Union, UnionType) else kind


def _settings_model() -> type[BaseModel]:
    fields: dict[str, Any] = {}
    group = Group("Settings")
    for name, field in Config.model_fields.items():
        if name in SECTIONS:
            group = Group(f"Settings: {SECTIONS[name]}", sort_key=10 + len(fields))
        if name == "recipe":
            continue
        text = field.description
        if name == "backbone":
            text = f"network without head: {', '.join(BACKBONES)}"
        flag = Annotated[
            _without_limits(field.annotation) | None, Parameter(group=group, help=text, consume_multiple=True)
        ]
        fields[name] = (flag, Field(None))
    return create_model("Settings", __config__=ConfigDict(extra="forbid"), **fields)


Settings = _settings_model()
"""Every field of `Config`, all optional: what is not given is the recipe's."""

SettingsFlags = Annotated[
    Settings | None,  # pyright: ignore[reportInvalidTypeForm]
    Parameter(name="*"),
]


class ProtocolOptions(BaseModel):
    """Options of the protocols, all optional: each protocol takes those its function names, see `unlabeled.protocols`."""

    model_config = ConfigDict(extra="forbid")

    neighbors: Optional[int] = Field(  # noqa: UP045
        None,
        description="knn, knn-bank: voters [20, the papers use 200 on large sets; 200]; edge-ratio, cliques: edges of an image "
        "[10; 5]",
    )
    space: Optional[Literal["backbone", "output", "bank", "pca"]] = Field(  # noqa: UP045
        None, description="knn, svm: what is compared [backbone]; output (and, for knn, bank) are the papers' 128 dims"
    )
    compare: Optional[list[Path]] = Field(  # noqa: UP045
        None, description="every protocol: another run to put beside this one, may be given several times"
    )
    out: Optional[Path] = Field(None, description="all: folder of the table's files [RUN]")  # noqa: UP045
    shots: Optional[str] = Field(None, description="low-shot: labelled images a class [1,4,10,50]")  # noqa: UP045
    fractions: Optional[str] = Field(  # noqa: UP045
        None, description="semi-supervised: labelled shares of the training images [0.01,0.02,0.04,0.1,0.2]"
    )
    draws: Optional[int] = Field(  # noqa: UP045
        None, description="low-shot, semi-supervised: random draws of the labelled images [10; 3]"
    )
    frozen: Optional[bool] = Field(  # noqa: UP045
        None, description="low-shot: train a linear classifier on the fixed features, not the whole network"
    )
    ground_truth: Optional[Path] = Field(  # noqa: UP045
        None, description="retrieval, all: folder of *_query.txt, *_good.txt, *_ok.txt and *_junk.txt"
    )
    pca: Optional[Path] = Field(  # noqa: UP045
        None, description="retrieval, all: images its whitening is learned on, other than those that are searched"
    )
    levels: Optional[int] = Field(None, description="retrieval: levels of regions [3]")  # noqa: UP045
    side: Optional[int] = Field(  # noqa: UP045
        None,
        description="retrieval: larger side of every image, pixels [1024]; voc-detection: shorter side [600 for views of 224, "
        "else in proportion]",
    )
    expand: Optional[int] = Field(None, description="retrieval: best images averaged into a query [0]")  # noqa: UP045
    scales: Optional[str] = Field(  # noqa: UP045
        None, description="retrieval: factors of the side whose descriptors are added, for example 0.7,1,1.4 [1]"
    )
    stages: Optional[str] = Field(  # noqa: UP045
        None, description="linear, svm, knn: stages of the network, for example conv1,conv3 [all; knn: none]"
    )
    form: Optional[Literal["nat", "deepcluster"]] = Field(None, description="mlp: which paper's [nat]")  # noqa: UP045
    width: Optional[int] = Field(None, description="mlp: units of its two layers [4096; 512 if quick]")  # noqa: UP045
    epochs: Optional[int] = Field(  # noqa: UP045
        None, description="linear, mlp: passes over the training images [90; 100, deepcluster 90]"
    )
    lr: Optional[float] = Field(  # noqa: UP045
        None,
        description="linear, mlp: learning rate [chosen on held-out training images]; voc-*: learning rate of the first step "
        "[published]",
    )
    weight_decay: Optional[float] = Field(None, description="linear: weight decay [chosen as lr]")  # noqa: UP045
    folds: Optional[int] = Field(None, description="linear, svm: folds of that choice [1]")  # noqa: UP045
    crops: Optional[Literal["one", "ten", "random"]] = Field(  # noqa: UP045
        None,
        description="linear, mlp, low-shot, semi-supervised: views of a test image, one or ten [ten; one if quick]; "
        "voc-classification: ten, or random for ten random ones [random]",
    )
    detector: Optional[Literal["fast", "faster"]] = Field(  # noqa: UP045
        None, description="voc-detection: Fast R-CNN on given regions, or Faster R-CNN, which finds its own [fast]"
    )
    proposals: Optional[Path] = Field(  # noqa: UP045
        None, description="voc-detection: .npz or .json file of regions for `fast` [computed by hierarchical grouping]"
    )
    train: Optional[Literal["fc", "all"]] = Field(  # noqa: UP045
        None,
        description="voc-*: new fully connected layers on frozen convolutions, or the whole network [fc; voc-detection: all]",
    )
    split: Optional[Literal["val", "test"]] = Field(  # noqa: UP045
        None,
        description="voc-*: train on train and score on val, or trainval and test [test; voc-segmentation: val]",
    )
    steps: Optional[int] = Field(None, description="voc-*: steps of the optimiser [published]")  # noqa: UP045
    batch_size: Optional[int] = Field(  # noqa: UP045
        None, description="voc-segmentation: pictures of a step [20; 4 if quick]"
    )
    train_norm_scales: Optional[bool] = Field(  # noqa: UP045
        None, description="voc-classification: with fc, train the scales of batch normalisation too, as DeepCluster did"
    )
    fold_norm: Optional[bool] = Field(  # noqa: UP045
        None, description="voc-classification: fold batch normalisation away and rescale on data, as NAT did"
    )
    norm_statistics: Optional[Literal["measured", "kept"]] = Field(  # noqa: UP045
        None,
        description="voc-*, where batch normalisation is frozen: with statistics of the training pictures, or the network's "
        "own [measured]",
    )


ProtocolFlags = Annotated[ProtocolOptions | None, Parameter(name="*", group=Group("Options of single protocols"))]


def given(settings: BaseModel | None) -> dict[str, Any]:
    """The settings that were named on the command line."""
    return settings.model_dump(exclude_none=True) if settings else {}
