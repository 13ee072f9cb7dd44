"""Without other ranks the synchronised layers are torch's own."""

from __future__ import annotations

import torch
from torch import nn

from unlabeled.models.sync_batch_norm import BatchNorm1d, BatchNorm2d, convert_sync


def test_one_rank_is_torchs_layer() -> None:
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    assert torch.equal(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_convert_sync_reaches_every_layer() -> None:
    network = nn.Sequential(BatchNorm2d(3), nn.Sequential(BatchNorm1d(2)), nn.BatchNorm2d(3))
    convert_sync(network, False)
    assert [part.synchronised for part in network.modules() if isinstance(part, (BatchNorm1d, BatchNorm2d))] == [
        False
    ] * 2
