"""The stable rate of a fresh head is measured on features as the head is trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from pictures import write_pictures
from unlabeled.config import Config
from unlabeled.data.augment import Views
from unlabeled.data.loading import Loader
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.features import batch_statistics, embed
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.models import build_backbone
from unlabeled.randomness import generator


def test_features_with_batch_statistics_are_those_of_training_and_leave_no_trace(tmp_path: Path) -> None:
    store = open_store(open_source(write_pictures(tmp_path, 48)), short_side=32, cache=None)
    config = Config(backbone="resnet18_small", image_size=32, resize=32, store_size=32, batch_size=16, num_clusters=4)
    backbone = build_backbone("resnet18_small", image_size=32, generator=generator(0))
    loader = Loader(store, Views.from_config(config, store.is_colour), device=torch.device("cpu"), seed=0)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    seen = embed(backbone, loader, torch.arange(32), batch_size=16, mode=batch_statistics)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    backbone.train()
    with torch.no_grad():
        wanted = torch.cat([backbone(view) for _, view in loader.center_batches(torch.arange(32), 16)])
    assert torch.allclose(seen, wanted, atol=1e-5)

    method = DeepCluster(build_backbone("resnet18_small", image_size=32, generator=generator(0)), len(store), config)

    def features(index: torch.Tensor | None = None, *, as_trained: bool = False) -> torch.Tensor:
        assert not as_trained or index is not None
        mode = {"mode": batch_statistics} if as_trained else {}
        return embed(method.backbone, loader, index, batch_size=16, **mode)

    method.before_epoch(0, features)
    trained_on = embed(method.backbone, loader, torch.arange(48), batch_size=16, mode=batch_statistics)
    curvature = 1 + trained_on.relu().square().sum(1).mean()
    # By hand, the section "stable rate" of the head: K over 1 + E|x|².
    torch.testing.assert_close(method.head.stable_lr, 4 / curvature, rtol=1e-4, atol=0)
