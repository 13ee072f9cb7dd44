"""A folder in the layout of Oxford Buildings: three things in eight views each, and lists of what is to be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pictures import pictures


def write_oxford(folder: Path) -> Path:
    """`images` of three things in 8 views each, `gt` with a query a thing, `other` images for the whitening."""
    for name in ("images", "gt", "other"):
        (folder / name).mkdir(parents=True)
    things, _ = pictures(3, side=48, kinds=3, seed=3)
    random = np.random.default_rng(0)
    for thing in range(3):
        for view in range(8):
            left, top = random.integers(0, 8, 2)
            Image.fromarray(things[thing, top : top + 40, left : left + 36]).save(
                folder / f"images/t{thing}_{view}.png"
            )
        names = [f"t{thing}_{view}" for view in range(8)]
        for kind, lines in (
            ("query", [f"oxc1_{names[0]} 2 2 34.5 38"]),
            ("good", names[:4]),
            ("ok", names[4:7]),
            ("junk", names[7:]),
        ):
            (folder / f"gt/thing{thing}_1_{kind}.txt").write_text("\n".join(lines))
    for i, pixels in enumerate(pictures(12, side=40, kinds=5, seed=9)[0]):
        Image.fromarray(pixels).save(folder / f"other/{i}.png")
    return folder
