"""The settings as flags of the command line: one for every field of `Config`, in sections, all optional."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field, create_model

from unlabeled.config import Config
from unlabeled.recipes import RECIPES

DeviceName = Literal["auto", "cpu", "cuda"]
IfExists = Literal["refuse", "resume", "replace"]

BACKBONES = (
    *("alexnet", "alexnet_fc6", "alexnet_nat", "alexnet_small", "resnet18", "resnet18_small"),
    *("resnet50", "resnet101", "vgg16"),
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
        flag = Annotated[Optional[field.annotation], Parameter(group=group, help=text, consume_multiple=True)]  # noqa: UP045  (built at run time)
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
        None, description="knn: voters [20; the papers use 200 on large sets]; edge-ratio: edges of an image [10]"
    )


ProtocolFlags = Annotated[ProtocolOptions | None, Parameter(name="*", group=Group("Options of single protocols"))]


def given(settings: BaseModel | None) -> dict[str, Any]:
    """The settings that were named on the command line."""
    return settings.model_dump(exclude_none=True) if settings else {}
