"""Fine-tuning: what it changes and what it leaves, against a loop by hand, and scores over crops by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from pictures import pictures
from unlabeled.config import Config
from unlabeled.data.augment import Views
from unlabeled.data.loading import Loader
from unlabeled.data.sources import open_source
from unlabeled.data.store import ImageStore, open_store
from unlabeled.errors import DataError
from unlabeled.evaluation.fine_tuning import FineTuning, accuracy, batches_of, classifier, fine_tune, order, outputs
from unlabeled.models import build_backbone

PIXELS, KINDS = pictures(40, side=32)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    path = tmp_path_factory.mktemp("store") / "images.npy"
    np.save(path, PIXELS)
    store: ImageStore = open_store(open_source(path), short_side=32, cache=None)
    config = Config(image_size=32, resize=32, store_size=32, brightness=0, contrast=0, saturation=0, hue=0, grey=0)
    return Loader(store, Views.from_config(config, True), device="cpu", seed=0)


def backbone():
    return build_backbone("alexnet_small", image_size=32, generator=torch.Generator().manual_seed(0))


def test_the_steps_are_those_of_a_plain_loop(loader: Loader):
    torch.set_num_threads(1)
    rows, target = torch.arange(20), torch.from_numpy(KINDS)
    how = FineTuning(epochs=3, batch_size=8, lr=0.02)
    ours = classifier(backbone(), 4, seed=0)
    plain = classifier(backbone(), 4, seed=0)
    fine_tune(ours, loader, rows, target, how, title="fit")
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    plain.train()
    step = 0
    for epoch in range(3):
        for index, view in loader.train_batches(order(rows, 8, 0, epoch), epoch, 8):
            # 6 steps: the rate falls at 3/7 and 6/7 of them, that is from the fourth and from the seventh on.
            optimizer.param_groups[0]["lr"] = 0.02 if step < 3 else 0.002
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(view), target[index]).backward()
            optimizer.step()
            step += 1
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_backbone_handed_in_is_never_changed(loader: Loader):
    given = backbone()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    network = classifier(given, 4, seed=0)
    fine_tune(network, loader, torch.arange(20), torch.from_numpy(KINDS), FineTuning(epochs=1), title="fit")
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert all(parameter.requires_grad for parameter in given.parameters())
    assert not torch.equal(next(network.backbone.parameters()), next(given.parameters()))


def test_a_frozen_backbone_stays_to_the_bit(loader: Loader):
    network = classifier(backbone(), 4, seed=0, frozen=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fine_tune(network, loader, torch.arange(20), torch.from_numpy(KINDS), FineTuning(epochs=2), title="fit")
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("backbone."))
    assert not torch.equal(after["head.linear.weight"], before["head.linear.weight"])


def test_any_target_and_loss(loader: Loader):
    """Several labels an image, as of VOC: the loss sees rows of the target table."""
    table = torch.nn.functional.one_hot(torch.from_numpy(KINDS), 4).float()
    network = classifier(backbone(), 4, seed=0)
    seen: list[torch.Tensor] = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(target)
        return nn.functional.binary_cross_entropy_with_logits(output, target)

    fine_tune(network, loader, torch.arange(10), table, FineTuning(epochs=1, batch_size=10), loss, title="fit")
    assert [part.shape for part in seen] == [(10, 4)]
    assert torch.equal(seen[0].sum(0), table[:10].sum(0))
    sigmoid = outputs(network, loader, torch.arange(5), activation=torch.sigmoid)
    assert not torch.allclose(sigmoid.sum(1), torch.ones(5))


def test_scores_are_means_over_crops_in_the_order_of_the_rows(loader: Loader):
    network = classifier(backbone(), 4, seed=0).eval()
    rows = torch.tensor([7, 3, 31, 0, 12])

    def twice(index: torch.Tensor, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for part, view in loader.center_batches(index, batch):
            yield part, torch.stack([view, view.flip(3)], 1)

    found = outputs(network, loader, rows, batch_size=2, views=twice)
    view = torch.from_numpy(PIXELS[rows.numpy()]).permute(0, 3, 1, 2)
    with torch.no_grad():
        by_hand = (network(view).softmax(1) + network(view.flip(3)).softmax(1)) / 2
    torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(5))


def test_accuracy_by_hand():
    rows = torch.tensor([[0.1, 0.2, 0.3, 0.1, 0.05, 0.25, 0.0], [0.5, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05]])
    assert accuracy(rows, torch.tensor([2, 6])) == {"top1": 0.5, "top5": 0.5}
    assert accuracy(rows[:, :3], torch.tensor([0, 0])) == {"top1": 0.5}


def test_batches_of_few_images():
    assert batches_of(10, 64) == (10, 1)
    assert batches_of(130, 64) == (64, 2)
    assert order(torch.tensor([5, 9]), 3, 0, 0).tolist() == [*order(torch.tensor([5, 9]), 2, 0, 0).tolist()] * 2
    assert sorted(order(torch.arange(9), 4, 0, 0).tolist()) == list(range(9))
    assert order(torch.arange(9), 4, 0, 0).tolist() != order(torch.arange(9), 4, 0, 1).tolist()


def test_nothing_to_learn_from_is_a_sentence(loader: Loader):
    with pytest.raises(DataError, match="got 0 images and 40 targets"):
        fine_tune(
            classifier(backbone(), 4, seed=0),
            loader,
            torch.arange(0),
            torch.zeros(40).long(),
            FineTuning(),
            title="fit",
        )
