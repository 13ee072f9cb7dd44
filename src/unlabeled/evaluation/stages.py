"""Features of every stage of a network, average-pooled to what a linear classifier can take, in one pass.

Published sizes for AlexNet at 224 pixels (thesis, section 5.2.2; DeepCluster, section 4.2; spec E02, golden
`linear_probe`): maps after the ReLU, average-pooled to 9600, 9216, 9600, 9600 and 9216 numbers. One rule gives these
five, and it is applied to every other network and size, see `pool_of`.

Shapes: B images, C channels, h × w a map, D numbers of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from unlabeled.device import autocast
from unlabeled.errors import ConfigError, unknown_name
from unlabeled.models import Backbone

MOST_DIMS = 10_000
"""Numbers of a pooled stage stay below this, as published."""
FEATURE = "feature"
"""Name of the feature itself, after the last stage. (The output of a method's head is `space` "output".)"""


@dataclass(frozen=True)
class Pool:
    """An average over windows of `size` × `size`, side by side; `padding` zeros around the map count in the mean."""

    size: int
    padding: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] to [B, C, h', w']."""
        if self.size == 1:
            return x
        return functional.avg_pool2d(x, self.size, self.size, self.padding, count_include_pad=True)

    def side(self, side: int) -> int:
        """Side of what is left of a map."""
        return (side + 2 * self.padding - self.size) // self.size + 1


def pool_of(channels: int, side: int, most: int = MOST_DIMS) -> Pool:
    """The pool for maps [channels, side, side].

    Let n be the largest grid with channels · n² < `most`. The window is the smallest that fits at most n times, and the
    padding the least that makes it n times, or as near as half a window of zeros on each side comes. Cells behind the
    last whole window are left out. AlexNet's five maps at 224 pixels give the published pools: 6 with padding 3, 4,
    3 with padding 1, 3 with padding 1, 2.
    """
    grid = max(1, math.isqrt((most - 1) // channels))
    if grid >= side:
        return Pool(1, 0)
    size = next(size for size in range(1, side + 1) if side // size <= grid)
    reached = min(grid, (side + 2 * (size // 2)) // size)
    return Pool(size, max(0, -(-(reached * size - side) // 2)))


class StageFeatures(nn.Module):
    """Views to the pooled maps of the stages asked for, one after the other in a row, the network frozen.

    dims: D of each stage, in order. The name `feature` stands for the network's feature, which is not pooled.
    """

    def __init__(
        self,
        backbone: Backbone,
        stages: Sequence[str],
        channels: int,
        *,
        most: int = MOST_DIMS,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`channels`: of the images. `dtype`: precision of the network; rows are float32.

        Raises:
            ConfigError: a stage this network does not have.
        """
        super().__init__()
        self.backbone = backbone.eval()
        self.dtype = dtype
        check_stages(stages, backbone)
        self.pools: dict[str, Pool] = {}
        self.dims: dict[str, int] = {}
        side = backbone.image_size
        example = torch.zeros(1, channels, side, side, dtype=torch.uint8, device=next(backbone.parameters()).device)
        with torch.no_grad():
            for name, x in backbone.forward_stages(example).items():
                if name in stages:
                    self.pools[name] = pool_of(x.shape[1], x.shape[2], most)
                    self.dims[name] = x.shape[1] * self.pools[name].side(x.shape[2]) ** 2
        if FEATURE in stages:
            self.dims[FEATURE] = backbone.feature_dim

    @torch.no_grad()
    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """[B, channels, S, S] to float32 [B, sum of dims], maps after their ReLU; evaluation mode whatever was set."""
        self.backbone.eval()
        rows: list[torch.Tensor] = []
        with autocast(view.device, self.dtype):
            x = self.backbone.stem(view)
            for name, stage in self.backbone.trunk(x):
                x = stage
                if name in self.pools:
                    # Sums in float32: a window has dozens of cells.
                    rows.append(self.pools[name](x.float()).flatten(1))
                if name == self._last:
                    break
            if FEATURE in self.dims:
                rows.append(self.backbone.pool(x).float())
        return torch.cat(rows, 1)

    @property
    def _last(self) -> str:
        # What comes after the deepest stage asked for need not be computed.
        return self.backbone.stages[-1] if FEATURE in self.dims else next(reversed(self.dims))

    def parts(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows [B, sum of dims] cut into stages: views [B, D]."""
        return dict(zip(self.dims, rows.split(list(self.dims.values()), dim=1), strict=True))


def parse_stages(text: str | None, backbone: Backbone, *, output: bool = False) -> tuple[str, ...]:
    """Stages from `conv1,conv3` or `all`, in the order of the network; all of them (and the feature, if `output`) for None.

    Raises:
        ConfigError: a stage this network does not have, or none named.
    """
    every = (*backbone.stages, FEATURE) if output else backbone.stages
    if text is None or text.strip() == "all":
        return every
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"stages names none; give 'all' or some of {', '.join((*backbone.stages, FEATURE))}.")
    check_stages(names, backbone)
    return tuple(name for name in (*backbone.stages, FEATURE) if name in names)


def check_stages(stages: Sequence[str], backbone: Backbone) -> None:
    """Raise ConfigError if the network lacks one of the stages, or none is named."""
    if not stages:
        raise ConfigError(f"at least one stage is needed; this network has {', '.join(backbone.stages)}.")
    for name in stages:
        if name != FEATURE and name not in backbone.stages:
            raise ConfigError(unknown_name("stage", name, (*backbone.stages, FEATURE)))
