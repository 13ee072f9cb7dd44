from __future__ import annotations

import pytest
import torch

from unlabeled.cluster import nearest_centroid
from unlabeled.errors import ConfigError


@pytest.mark.parametrize("columns", [1, 7, 63, 64, 100, 511, 512, 1000])
@pytest.mark.parametrize("width", ["int8", "bfloat16", "float32"])
def test_labels_are_nearest_up_to_the_rounding(columns: int, width: nearest_centroid.Width) -> None:
    generator = torch.Generator().manual_seed(columns)
    x = torch.nn.functional.normalize(torch.randn(600, 48, generator=generator))
    centroids = x[torch.randperm(600, generator=generator)[:columns] % 600] * 0.7
    centroids = torch.cat([centroids, x[: columns - len(centroids)] * 0.5])
    search = nearest_centroid.Nearest(x, [width, "float32"], largest=float(x.abs().max()), energy=1.0)
    for _ in range(2):  # the second search knows the first one's scores
        labels = search.labels(centroids)
    distances = torch.cdist(x.double(), centroids.double()).square()
    excess = distances.gather(1, labels[:, None]).squeeze(1) - distances.amin(1)
    assert search.noise < 0.01
    assert excess.max() <= max(1e-6, 20 * search.noise)


def test_block_max_is_max() -> None:
    scores = torch.randn(50, 96, generator=torch.Generator().manual_seed(0))
    values, positions = nearest_centroid.block_max(scores, 4)
    assert torch.equal(values, scores.amax(1))
    assert torch.equal(positions, scores.argmax(1))


def test_absurd_bias_climbs_to_wider_products() -> None:
    x = torch.randn(100, 32, generator=torch.Generator().manual_seed(0)) * 1e-3
    centroids = torch.cat([x[:5], torch.full((1, 32), 1e8)])
    search = nearest_centroid.Nearest(x, ["int8", "float32"], largest=float(x.abs().max()), energy=3e-5)
    labels = search.labels(centroids)
    assert search.exact
    assert torch.equal(labels, torch.cdist(x, centroids).argmin(1))


def test_ladder_ends_in_float32() -> None:
    assert nearest_centroid.ladder("auto", "cpu", 10, 64) == ["float32"]
    assert nearest_centroid.ladder("bfloat16", "cpu", 10, 64) == ["bfloat16", "float32"]
    with pytest.raises(ConfigError, match="did you mean 'float32'"):
        nearest_centroid.ladder("float23", "cpu", 10, 64)
