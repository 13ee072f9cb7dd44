"""How files that hold more than one picture, or more than its colors, are read; the same for all images of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from unlabeled.errors import ConfigError, unknown_name

Frames = Literal["first", "middle", "max", "mean", "channels", "all"]
Alpha = Literal["white", "band"]


@dataclass(frozen=True)
class ReadOptions:
    """Choices that the pixels of a file leave open.

    Raises:
        ConfigError: an unknown value.
    """

    frames: Frames = "first"
    """Of a stack or animation: its first or middle frame, the maximum or mean over all frames (projection), every frame
    as a channel of one image, or all: every frame is an image of its own."""
    alpha: Alpha = "white"
    """Transparent pixels are put on white, or `band`: the alpha channel is data and stays as the last channel."""

    def __post_init__(self) -> None:
        for name, value, known in (("frames", self.frames, get_args(Frames)), ("alpha", self.alpha, get_args(Alpha))):
            if value not in known:
                raise ConfigError(unknown_name(name, value, known))

    @property
    def key(self) -> str:
        """Distinguishes cached pixels that were read otherwise; empty for the defaults."""
        return "" if self == ReadOptions() else f"{self.frames} {self.alpha}"

    def to_json(self) -> dict[str, Any]:
        """For RUN/data.json."""
        return asdict(self)
