"""Samplers against a loop that can be read off the page, and against their expectations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.data.samplers import cluster_then_member, cluster_weights, natural, uniform_over_clusters
from unlabeled.errors import DataError
from unlabeled.randomness import generator

LABELS = st.lists(st.integers(-1, 6), min_size=1, max_size=120).filter(lambda labels: max(labels) >= 0)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(0, 300), st.integers(0, 1000))
def test_each_cluster_gives_its_share_and_repeats_only_where_it_must(values: list[int], count: int, seed: int) -> None:
    labels = torch.tensor(values)
    order = uniform_over_clusters(labels, count, generator(seed))
    assert order.shape == (count,)
    assert (labels[order] >= 0).all()
    sizes = {k: int((labels == k).sum()) for k in set(values) - {-1}}
    share = count // len(sizes) + 1
    for k, size in sizes.items():
        drawn = order[labels[order] == k]
        assert len(drawn) <= share
        if size > share:
            assert len(drawn.unique()) == len(drawn)


@pytest.mark.parametrize("sampler", [uniform_over_clusters, cluster_then_member])
def test_every_cluster_and_every_member_is_drawn_equally_often(sampler) -> None:
    labels = torch.cat([torch.full((size,), k) for k, size in ((0, 200), (1, 50), (3, 3), (5, 1), (-1, 9))])
    draws = torch.cat([sampler(labels, 400, generator(seed)) for seed in range(200)])
    per_cluster = torch.bincount(labels[draws], minlength=6).double() / len(draws)
    assert per_cluster[[2, 4]].sum() == 0
    torch.testing.assert_close(per_cluster[[0, 1, 3, 5]], torch.full((4,), 0.25).double(), atol=0.006, rtol=0)
    members = torch.bincount(draws[labels[draws] == 0], minlength=200).double()
    assert members.min() > 0.6 * members.mean()
    assert members.max() < 1.5 * members.mean()


def test_weighted_natural_sampling_has_the_expectation_of_uniform_sampling() -> None:
    labels = torch.tensor([0] * 30 + [2] * 6 + [3] * 4 + [-1] * 5)
    loss = torch.rand(len(labels), generator=generator(3)).double()
    weights = cluster_weights(labels, 5)
    assert weights[1] == weights[4] == 0
    labelled = labels >= 0
    natural_mean = (weights.double()[labels[labelled]] * loss[labelled]).mean()
    exact = torch.stack([loss[labels == k].mean() for k in (0, 2, 3)]).mean()
    torch.testing.assert_close(natural_mean, exact, rtol=1e-6, atol=0)
    draws = torch.cat([uniform_over_clusters(labels, 40, generator(seed)) for seed in range(500)])
    torch.testing.assert_close(loss[draws].mean(), exact, rtol=0.01, atol=0)
    torch.testing.assert_close(weights[labels[labelled]].mean(), torch.tensor(1.0))


def test_natural_is_permutation_after_permutation() -> None:
    order = natural(10, 25, generator(0))
    assert order[:10].sort().values.tolist() == order[10:20].sort().values.tolist() == list(range(10))
    assert len(order[20:].unique()) == 5
    assert not torch.equal(order[:10], order[10:20])
    assert len(natural(10, 0, generator(0))) == 0


def test_same_generator_same_order() -> None:
    labels = torch.arange(100) % 7
    first, again, other = (uniform_over_clusters(labels, 100, generator(s, "order")) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nothing_to_draw_is_said() -> None:
    nothing = torch.full((5,), -1)
    for sampler in (uniform_over_clusters, cluster_then_member):
        with pytest.raises(DataError, match="every label is -1"):
            sampler(nothing, 5, generator(0))
    with pytest.raises(DataError, match="every label is -1"):
        cluster_weights(nothing, 3)
    with pytest.raises(DataError, match=r"reach 4.*below num_clusters \(3\)"):
        cluster_weights(torch.tensor([0, 4]), 3)
    with pytest.raises(DataError, match="at least one image"):
        natural(0, 5, generator(0))


def test_more_clusters_than_sixteen_bits_count() -> None:
    labels = torch.cat([torch.arange(70_000), torch.full((500,), 69_999)])
    order = uniform_over_clusters(labels, 140_000, generator(0))
    assert int(torch.bincount(labels[order]).max()) <= 3
    # Three draws of each are shuffled and cut to two thirds: one cluster in 27 is not seen.
    assert len(labels[order].unique()) == pytest.approx(70_000 * 26 / 27, rel=0.01)
