"""DeepCluster with k-means: targets, draws and heads as the papers say, and it learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unlabeled
from pictures import pictures
from runs import SMALL as WHOLE
from runs import knn_gain, photograph_crops
from unlabeled import losses
from unlabeled.config import Config
from unlabeled.data import samplers
from unlabeled.errors import ConfigError
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.models import build_backbone
from unlabeled.models.data_init import gradient_ratios
from unlabeled.randomness import generator
from unlabeled.runs.images import make_loader

SMALL: dict[str, Any] = {
    "backbone": "alexnet_small",
    "image_size": 16,
    "resize": 16,
    "store_size": 20,
    "num_clusters": 8,
    "pca_dims": 8,
    "batch_size": 20,
}


class Features:
    """Stands in for the network: fixed rows, and a record of what was asked for."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.asked: list[torch.Tensor | None] = []

    def __call__(self, index: torch.Tensor | None = None, *, as_trained: bool = False) -> torch.Tensor:
        if not as_trained:
            self.asked.append(index)
        return self.rows.clone() if index is None else self.rows[index]


def clumps(count: int, kinds: int = 8, dims: int = 32, seed: int = 0) -> tuple[Features, torch.Tensor]:
    random = generator(seed, "clumps")
    kind = torch.arange(count) % kinds
    centres = torch.randn(kinds, dims, generator=random) * 4
    return Features(centres[kind] + torch.randn(count, dims, generator=random)), kind


def method(count: int, **changes: Any) -> DeepCluster:
    config = Config(**(SMALL | changes))
    backbone = build_backbone(config.backbone, image_size=config.image_size, generator=generator(0))
    return DeepCluster(backbone, count, config)


@pytest.mark.parametrize("seed", range(5))
def test_uniform_draws_balance_zipf_clusters_and_natural_ones_do_not(seed: int):
    """The released sampler draws dataset indices but indexes images in cluster order: its largest share was 0.207 where
    0.010 was meant, natural draws give 0.200 (trap 13b). The draw here is looked at through the labels themselves."""
    count, clusters = 20_000, 100
    weights = 1 / np.arange(1, clusters + 1)
    random = np.random.default_rng(seed)
    # The labels are not in order of clusters, which is what the mistake needs to stay unseen.
    labels = torch.from_numpy(random.choice(clusters, count, p=weights / weights.sum()))
    trained = method(count, num_clusters=clusters)
    trained.labels.copy_(labels)

    def largest_share(sampling: str) -> float:
        trained.config = trained.config.replace(sampling=sampling)
        return float(torch.bincount(labels[trained.draw(0)]).max() / count)

    assert largest_share("uniform") == pytest.approx(0.01, abs=0.0005)
    assert largest_share("cluster_then_member") == pytest.approx(0.01, abs=0.003)
    assert largest_share("natural") == pytest.approx(float(torch.bincount(labels).max() / count), abs=1e-9)
    assert largest_share("natural") > 0.17


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-1, 6), min_size=1, max_size=60).filter(lambda ids: max(ids) >= 0), st.integers(0, 99))
def test_no_draw_shows_an_unlabelled_image_and_every_cluster_gets_its_share(ids: list[int], seed: int):
    labels, count = torch.tensor(ids), 70
    for draw in (samplers.uniform_over_clusters, samplers.cluster_then_member):
        seen = labels[draw(labels, count, generator(seed))]
        assert len(seen) == count
        assert int(seen.min()) >= 0
    sizes = torch.bincount(labels[samplers.uniform_over_clusters(labels, count, generator(seed))])
    occupied = torch.bincount(labels[labels >= 0]) > 0
    # Floor + 1 each, shuffled, cut: no cluster has more, and together they miss at most what was cut.
    assert int(sizes.max()) <= count // int(occupied.sum()) + 1


def test_labels_follow_the_clumps_and_the_head_is_fresh_every_time():
    trained = method(240)
    features, kind = clumps(240)
    trained.before_epoch(0, features)
    first, head = trained.labels.clone(), trained.head
    assert len({(int(a), int(b)) for a, b in zip(first, kind, strict=True)}) == 8
    trained.before_epoch(1, features)
    assert trained.head is not head
    summary = trained.summary()
    assert summary["nmi_previous"] > 0.85
    assert summary["chance_loss"] == pytest.approx(math.log(8))
    assert 0 < summary["pca_first_share"] < summary["pca_share_10"] <= summary["pca_share_kept"] <= 1 + 1e-6
    assert summary["zeros_after_relu"] == pytest.approx(float((features.rows <= 0).double().mean()))


def test_clusters_live_as_long_as_reassign_every_says():
    trained, (features, _) = method(240, reassign_every=3, epochs=9), clumps(240)
    for epoch in range(6):
        trained.before_epoch(epoch, features)
    assert len(features.asked) == 2


@pytest.mark.parametrize(("period", "images", "clusterings"), [(0.5, 120, 6), (1, 240, 6), (2.5, 600, 6), (3, 240, 2)])
def test_a_fraction_of_an_epoch_is_an_epoch_of_that_length(period: float, images: int, clusterings: int):
    """The released code's sampler shows int(reassign * n) images from one clustering to the next."""
    trained, (features, _) = method(240, reassign_every=period, epochs=6), clumps(240)
    for epoch in range(6):
        trained.before_epoch(epoch, features)
        assert len(trained.draw(epoch)) == trained.images_per_epoch == images
    assert len(features.asked) == clusterings


def test_the_share_of_the_commonest_answer_is_counted():
    trained, (features, _) = method(240, reassign_every=2, epochs=4), clumps(240)
    trained.before_epoch(0, features)
    answers = torch.tensor([3, 3, 1, 3, 0, 3])
    trained.after_step(torch.arange(6), torch.nn.functional.one_hot(answers, 8).float())
    summary = trained.summary()
    assert summary["prediction_share"] == pytest.approx(4 / 6)
    shares = torch.tensor([4, 1, 1]).double() / 6
    assert summary["prediction_entropy"] == pytest.approx(float(-(shares * shares.log()).sum()) / math.log(8))
    again = method(240, reassign_every=2, epochs=4)
    again.load_state_dict(trained.state_dict())
    assert again.summary() == summary
    trained.before_epoch(1, features)
    assert "prediction_share" not in trained.summary()


def test_answers_among_some_classes_are_counted_under_their_own_numbers():
    trained = method(60, num_clusters=30, loss_subset=12)
    trained.labels.copy_(torch.arange(60) % 30)
    trained.before_step(torch.arange(8))
    classes = trained.head.classes
    trained.after_step(torch.arange(8), torch.eye(12)[:8])
    assert trained.predicted.nonzero()[:, 0].tolist() == classes[:8].tolist()


def test_the_feature_can_be_read_after_its_relu():
    one, two = method(240, feature="after_relu"), method(240)
    features, _ = clumps(240)
    one.before_epoch(0, features)
    two.before_epoch(0, Features(features.rows.clamp(min=0)))
    assert torch.equal(one.labels, two.labels)


def test_the_head_expects_what_the_network_gives_whatever_clustering_clamps():
    features, _ = clumps(240)
    bare = method(240, feature="after_relu", head="no_relu")
    # As the network does: rows of its own each time, which clustering may overwrite.
    bare.before_epoch(0, features)
    energy = 1 + float(features.rows.double().square().sum(1).mean())
    assert float(bare.head.stable_lr) == pytest.approx(bare.config.num_clusters / energy)


def test_weights_by_cluster_follow_the_clustering():
    features, _ = clumps(240)
    weighted = method(240, sampling="weighted", reassign_every=1)
    z, index = torch.randn(20, 8, generator=generator(0)), torch.arange(20)
    for epoch, rows in enumerate((features, Features(features.rows[:, :2].exp()))):
        weighted.before_epoch(epoch, rows)
        found = weighted.loss(z, weighted.targets(index, z))
        terms = torch.nn.functional.cross_entropy(z, weighted.labels[:20], reduction="none")
        sizes = torch.bincount(weighted.labels, minlength=8)
        share = 240 / (int((sizes > 0).sum()) * sizes[weighted.labels[:20]])
        assert float(found) == pytest.approx(float((share * terms).mean()), rel=1e-5)


def test_the_head_without_relu_reads_negative_features():
    plain, bare = method(40), method(40, head="no_relu")
    features = torch.randn(3, plain.backbone.feature_dim)
    bare.head.load_state_dict(plain.head.state_dict())
    assert torch.allclose(plain.head(features), bare.head(features.clamp(min=0)))
    assert not torch.allclose(plain.head(features), bare.head(features))


def test_the_short_alexnet_ends_with_its_first_layer():
    backbone = build_backbone("alexnet_fc6", image_size=64, generator=generator(0)).eval()
    whole = build_backbone("alexnet", image_size=64, generator=generator(0)).eval()
    view = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        feature = backbone(view)
        assert torch.allclose(whole.get_submodule("fc7")(feature.relu()), whole(view), atol=1e-5)
    assert not hasattr(backbone, "fc7")


def test_a_loss_over_some_classes_computes_only_those():
    """The restricted loss is that of the golden formula on all logits, and other rows of the head get no gradient."""
    trained = method(60, num_clusters=30, loss_subset=12)
    trained.labels.copy_(torch.arange(60) % 30)
    index, features = torch.arange(8), torch.randn(8, trained.backbone.feature_dim)
    trained.before_step(index)
    z = trained.head(features)
    assert z.shape == (8, 12)
    loss = trained.loss(z, trained.targets(index, z))
    classes = trained.head.classes
    trained.head.classes = None
    whole = trained.head(features)
    assert torch.allclose(loss, losses.restricted_cross_entropy(whole, trained.labels[index], classes), atol=1e-6)
    assert bool(loss <= losses.cross_entropy(whole, trained.labels[index]))
    loss.backward()
    moved = trained.head.linear.weight.grad.abs().sum(1) > 0
    assert moved.nonzero()[:, 0].tolist() == classes.tolist()
    trained.before_step(index)
    assert torch.equal(trained.head.classes, classes), (
        "the choice is a function of the batch, so a resumed step repeats it"
    )


def test_more_clusters_than_images_are_refused():
    with pytest.raises(ConfigError, match=r"num_clusters \(8\) must be at most .* \(5\)"):
        method(5)
    with pytest.raises(ConfigError, match=r"subset \(90\) must be at most .* \(40\)"):
        method(40, subset=90)
    with pytest.raises(ConfigError, match=r"num_clusters \(8\) must be at most .* \(6\)"):
        method(40, subset=6)
    method(40, subset=6, subset_mode="mismatched")


def test_it_learns_on_photographs(tmp_path: Path):
    data, labels = photograph_crops(tmp_path, 16)
    changes = {"epochs": 6, "reassign_every": 3, "num_clusters": 30, "pca_dims": 32, "batch_size": 16}
    changes |= {"image_size": 24, "resize": 24}
    run = unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", **(WHOLE | changes))
    assert run.history[-1]["loss"] < 0.95 * run.history[-1]["chance_loss"]
    gain = knn_gain(run, labels)
    assert gain > 0.02, gain


def test_first_weights_may_come_from_the_data(tmp_path: Path):
    np.save(tmp_path / "d.npy", pictures(60, side=20)[0])
    run = unlabeled.train(
        tmp_path / "d.npy", tmp_path / "run", cache=tmp_path / "cache", epochs=1, data_init=True, lr=1e-12, **SMALL
    )
    for name, tensor in run.untrained_backbone().state_dict().items():
        # What scores are held against is what training began with.
        if name.endswith("weight"):
            torch.testing.assert_close(tensor, run.backbone.state_dict()[name], rtol=1e-4, atol=1e-6)
    seen: list[torch.Tensor] = []
    first = next(part for part in run.backbone.modules() if isinstance(part, torch.nn.Conv2d))
    first.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    run.features_of(run.record.open(str(tmp_path / "d.npy")))
    deviation = torch.cat(seen).std((0, 2, 3))
    # All channels alike; the layer as a whole then took the factor that makes it learn as fast as the others.
    assert (deviation / deviation.mean()).sub(1).abs().max() < 0.05
    loader = make_loader(run.record.open(str(tmp_path / "d.npy")), run.config, torch.device("cpu"))
    _, view = next(iter(loader.center_batches(torch.arange(60), 60)))
    logs = torch.tensor(list(gradient_ratios(run.backbone, view, run.config.seed).values())).log()
    assert (logs - logs.mean()).abs().max() < 0.05
