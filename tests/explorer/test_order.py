"""Against what a person would do by hand: filter, sort, cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from unlabeled.config import Config
from unlabeled.errors import DataError
from unlabeled.explorer.order import Order
from unlabeled.runs.index import Catalogue, build


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    rows = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    return build(rows, Config(num_clusters=9, pca_dims=6))


def test_members_are_those_of_the_cluster_nearest_first(catalogue: Catalogue):
    order = Order(catalogue)
    for number in range(9):
        members = order.members(number)
        wanted = (catalogue.clusters == number).nonzero()[:, 0]
        assert sorted(members.tolist()) == wanted.tolist()
        assert (np.diff(catalogue.distances.numpy()[members]) >= 0).all()
        assert order.members(number, "far").tolist() == members.tolist()[::-1]
        assert order.tightness[number] == pytest.approx(float(catalogue.distances[wanted].mean()), rel=1e-5)


def test_clusters_in_three_orders(catalogue: Catalogue):
    order = Order(catalogue)
    assert order.clusters("number").tolist() == list(range(9))
    assert (np.diff(order.sizes[order.clusters("size")]) <= 0).all()
    assert (np.diff(order.tightness[order.clusters("tightness")]) >= 0).all()


def test_alike_clusters_are_those_with_the_nearest_centres(catalogue: Catalogue):
    order = Order(catalogue)
    distances = torch.cdist(catalogue.centroids, catalogue.centroids)
    for number in range(9):
        wanted = [other for other in distances[number].argsort().tolist() if other != number]
        assert order.alike(number, 4) == wanted[:4]


def test_an_empty_cluster_is_left_out(catalogue: Catalogue):
    from dataclasses import replace

    emptied = replace(catalogue, clusters=torch.where(catalogue.clusters == 3, 4, catalogue.clusters))
    order = Order(emptied)
    assert 3 not in order.clusters("size")
    assert 3 not in order.alike(0, 9)
    assert order.members(3).tolist() == []


def test_nearest_is_exact(catalogue: Catalogue):
    order = Order(catalogue)
    query = torch.randn(12, generator=torch.Generator().manual_seed(1)) * 30
    cosine = catalogue.features @ normalize(query, dim=0)
    wanted = cosine.argsort(descending=True)[:7].tolist()
    found = order.nearest(query, 7)
    assert [index for index, _ in found] == wanted
    assert [value for _, value in found] == pytest.approx(cosine[wanted].tolist(), abs=1e-6)
    assert [index for index, _ in order.nearest(query, 6, without=wanted[0])] == wanted[1:]
    assert len(order.nearest(catalogue.features[0], 1000, without=0)) == 199
    with pytest.raises(DataError, match="finite"):
        order.nearest(torch.full((12,), torch.nan), 3)
