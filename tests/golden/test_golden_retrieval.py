"""R-MAC and the average precision of retrieval against the golden numbers of the released programs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.evaluation.retrieval import (
    Moments,
    Projection,
    RetrievalProtocol,
    learn_projection,
    region_descriptors,
    regions,
    rmac,
)
from unlabeled.metrics import retrieval_ap


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        return {key: data[key] for key in data.files}


def test_regions_are_the_released_ones(golden: Path) -> None:
    data = load(golden / "rmac_regions.npz")
    assert len(data) == 24
    for key, wanted in data.items():
        size = re.fullmatch(r"regions_H(\d+)_W(\d+)_L(\d+)", key)
        assert size is not None
        np.testing.assert_array_equal(regions(*map(int, size.groups())), wanted, err_msg=key)


def test_descriptors_are_the_released_ones(golden: Path) -> None:
    data = load(golden / "rmac_descriptor.npz")
    levels = int(data["levels"])
    given = Projection(torch.from_numpy(data["pca_mean"][0]), torch.from_numpy(data["pca_DVt"]))
    rows, found = [], []
    for i in range(6):
        descriptors = region_descriptors(torch.from_numpy(data[f"feat_{i}"]), levels)
        np.testing.assert_allclose(descriptors, data[f"region_desc_{i}"], atol=1e-5)
        rows.append(descriptors[0])
        found.append(rmac(descriptors, given))
    gram = torch.cat(found) @ torch.cat(found).T
    np.testing.assert_allclose(torch.cat(found), data["descriptor"], atol=1e-4)
    np.testing.assert_allclose(gram, data["similarity"], atol=1e-4)


def test_average_precision_is_the_oxford_programs(golden: Path) -> None:
    data = load(golden / "oxford_ap.npz")
    found = []
    for q in range(int(data["n_queries"])):
        positive = np.concatenate([data[f"good_{q}"], data[f"ok_{q}"]])
        found.append(retrieval_ap(data[f"ranking_{q}"], positive, data[f"junk_{q}"]))
        assert found[-1] == pytest.approx(float(data[f"ap_{q}"]), abs=1e-5)
    assert np.mean(found) == pytest.approx(float(data["mean_ap"]), abs=1e-5)
    # The same through the protocol, from descriptors whose similarities rank the images as given.
    whole = range(int(data["n_queries"]) - 1)
    gallery = torch.eye(int(data["n_images"]))
    scores = torch.linspace(1, 0.1, len(gallery))
    queries = torch.stack(
        [torch.zeros(len(gallery)).scatter(0, torch.from_numpy(data[f"ranking_{q}"]), scores) for q in whole]
    )
    lists = ([np.concatenate([data[f"good_{q}"], data[f"ok_{q}"]]) for q in whole], [data[f"junk_{q}"] for q in whole])
    assert RetrievalProtocol(gallery, queries, *lists).per_query() == pytest.approx(found[:-1])


def test_learned_whitening(golden: Path) -> None:
    data = load(golden / "rmac_descriptor.npz")
    rows = torch.cat([torch.from_numpy(data[f"region_desc_{i}"][0]) for i in range(6)])
    moments = Moments.zero(10)
    moments.add(rows)
    learned = learn_projection(moments, 6)
    np.testing.assert_allclose(learned.mean, data["pca_mean"][0], atol=1e-6)
    # The sign of an axis is free.
    np.testing.assert_allclose(learned.matrix.abs(), np.abs(data["pca_DVt"]), rtol=1e-4)
