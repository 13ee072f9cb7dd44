"""Activation maximisation against the golden file `gradient_ascent`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from unlabeled.visualize.ascent import ascend, shown


def test_gradient_ascent(golden: Path):
    stored = np.load(golden / "gradient_ascent.npz")
    weights = {name: torch.from_numpy(stored[name]) for name in ("conv1_w", "conv1_b", "conv2_w", "conv2_b")}

    def maps(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = functional.relu(functional.conv2d(x, weights["conv1_w"], weights["conv1_b"], padding=1))
        before = functional.conv2d(hidden, weights["conv2_w"], weights["conv2_b"], padding=1)
        return functional.relu(before), before

    def climbed(steps: int):
        return ascend(
            maps,
            torch.tensor([int(stored["channel"])]),
            torch.from_numpy(stored["x0"]),
            steps=steps,
            lr=float(stored["lr"]),
            weight_decay=float(stored["wd"]),
            sigma=float(stored["sigma"]),
            blur_every=int(stored["blur_every"]),
        )

    found = climbed(int(stored["niter"]))
    np.testing.assert_allclose(found.objective[:, 0], stored["loss"], rtol=1e-5)
    np.testing.assert_allclose(climbed(1).images, stored["x_after_1"], atol=5e-3)
    np.testing.assert_allclose(climbed(6).images, stored["x_after_6"], atol=5e-3)
    np.testing.assert_allclose(found.images, stored["x_final"], atol=5e-3)
    picture = shown(found.images)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(picture - stored["image_uint8"].astype(int)).max() <= 2
    assert not found.dead.any()
