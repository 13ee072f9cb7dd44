"""The verbs under torchrun with two gloo processes give what one process gives, and the first one speaks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import unlabeled
from pictures import Trained, write_pictures
from ranks import verbs_on_two_ranks
from unlabeled.runs.journal import read


def test_two_processes_give_what_one_gives(trained: Trained, tmp_path: Path):
    photos = write_pictures(tmp_path / "photos", 48)
    settings = {"backbone": "alexnet_small", "image_size": 32, "epochs": 1, "num_clusters": 4, "pca_dims": 8}
    settings |= {"precision": "float32", "reassign_every": 1, "lr": 0.05, "head_lr": 0.05}
    one = unlabeled.train(photos, tmp_path / "one", cache=trained.cache, batch_size=16, **settings)
    train = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    lines = [
        f"train {photos} --out {tmp_path / 'two'} --cache {trained.cache} --batch-size 8 {train}",
        # Verbs on a run that one process made, so that what is compared is the verb.
        f"embed {trained.run} {trained.new} --out {tmp_path / 'f.npy'}",
        f"cluster {trained.run} {trained.new} --out {tmp_path / 'c.csv'}",
        f"search {trained.run} {trained.new / 'kind0' / '000.png'} -k 3 --json {tmp_path / 's.json'}",
        f"evaluate knn {tmp_path / 'one'} {photos} --json {tmp_path / 'e.json'}",
    ]
    spoken = verbs_on_two_ranks(tmp_path, lines)
    assert spoken.count("Health: ") == 1 and spoken.count("40 features of") == 1

    two, run = unlabeled.load(tmp_path / "two"), unlabeled.load(trained.run)
    assert [r["loss"] for r in two.history] == pytest.approx([r["loss"] for r in one.history], rel=2e-3)
    assert len(two.catalogue.features) == 48 and read(tmp_path / "two" / "metrics.jsonl")
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), run.embed(trained.new).features, atol=1e-5)
    alone = run.cluster(trained.new, tmp_path / "alone.csv")
    together = (tmp_path / "c.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in together[1:]] == [[row.path, str(row.cluster)] for row in alone]
    hits = next(iter(json.loads((tmp_path / "s.json").read_text()).values()))
    found = next(iter(run.search(trained.new / "kind0" / "000.png", 3).values()))
    assert [hit["path"] for hit in hits] == [hit.path for hit in found]
    scores = json.loads((tmp_path / "e.json").read_text())
    assert {name: scores[name] for name in ("knn", "untrained", "raw_pixels")} == pytest.approx(
        {
            name: value
            for name, value in one.evaluate("knn", photos).items()
            if name in scores and name in ("knn", "untrained", "raw_pixels")
        }
    )
