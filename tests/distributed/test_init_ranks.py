"""A run that begins from weights on two processes: at once and adapted."""

from __future__ import annotations

from pathlib import Path

import torch

import unlabeled
from pictures import Trained
from ranks import verbs_on_two_ranks


def test_two_processes_begin_from_the_same_weights(trained: Trained, tmp_path: Path) -> None:
    common = f"--init {trained.run} --cache {trained.cache} --precision float32"
    verbs_on_two_ranks(
        tmp_path,
        [
            f"train {trained.photos} --out {tmp_path / 'frozen'} {common}",
            f"train {trained.photos} --out {tmp_path / 'adapted'} {common} --epochs 1 --batch-size 24 --num-clusters 6",
        ],
    )
    base = unlabeled.load(trained.run)
    frozen, adapted = (unlabeled.load(tmp_path / name) for name in ("frozen", "adapted"))
    wanted = base.embed(trained.photos, precision="float32").features
    assert torch.allclose(frozen.embed(trained.photos).features, wanted, atol=1e-5)
    before, after = base.backbone.state_dict(), adapted.backbone.state_dict()
    norms = {key for key in before if "norm" in key}
    assert all(torch.equal(before[key], after[key]) for key in norms)
    assert not torch.equal(before["conv1.conv.weight"], after["conv1.conv.weight"])
    assert len(adapted.catalogue.features) == 120
