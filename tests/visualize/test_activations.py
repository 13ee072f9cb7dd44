from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pictures import Trained
from unlabeled.errors import ConfigError
from unlabeled.run import Run
from unlabeled.runs.images import make_loader
from unlabeled.visualize.activations import NONE, TopImages, stage_means, top_images


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9), st.integers(0, 10**6))
def test_streaming_finds_what_sorting_everything_finds(count: int, k: int, batch: int, seed: int):
    # Few different values: ties go to the image that comes first, whatever the batches.
    random = np.random.default_rng(seed)
    values = random.integers(0, 6, (count, 4)).astype(np.float32)
    found = TopImages(4, k)
    order = random.permutation(-(-count // batch))
    for part in order:
        rows = slice(part * batch, (part + 1) * batch)
        found.update(torch.arange(count)[rows], torch.from_numpy(values[rows]))
    for unit in range(4):
        wanted = sorted(range(count), key=lambda i, unit=unit: (-values[i, unit], i))[:k]
        assert found.index[unit, : len(wanted)].tolist() == wanted
        assert (found.index[unit, len(wanted) :] == NONE).all()
        assert found.values[unit, : len(wanted)].tolist() == [values[i, unit] for i in wanted]


@pytest.mark.parametrize("stage", ["conv1", "conv5"])
def test_top_images_are_those_with_the_largest_mean_of_the_map(trained: Trained, stage: str):
    run = Run(trained.run, device="cpu")
    store = run.record.open(trained.new)
    loader = make_loader(store, run.config, torch.device("cpu"))
    found = top_images(run.backbone, stage, loader, batch_size=7)
    views = torch.cat([view for _, view in loader.center_batches(torch.arange(len(store)), 40)])
    with torch.no_grad():
        means = run.backbone.forward_stages(views)[stage].mean((2, 3))
    torch.testing.assert_close(stage_means(run.backbone, stage, views), means, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.values, means.sort(0, descending=True).values[:9].t(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(means.t().gather(1, found.index), found.values, atol=1e-5, rtol=1e-4)


def test_a_stage_nobody_knows(trained: Trained):
    run = Run(trained.run, device="cpu")
    loader = make_loader(run.record.open(trained.new), run.config, torch.device("cpu"))
    with pytest.raises(ConfigError, match="did you mean 'conv5'"):
        top_images(run.backbone, "conv55", loader)
