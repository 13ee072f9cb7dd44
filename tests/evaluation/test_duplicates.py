"""Groups of the same picture: against brute force, and of real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

import unlabeled
from pictures import SETTINGS, write_pictures
from unlabeled.evaluation.duplicates import groups


def test_groups_are_the_connected_images() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        neighbours = np.stack([rng.permutation([j for j in range(30) if j != i])[:4] for i in range(30)])
        repeated = (rng.random((30, 4)) < 0.12).astype(np.uint8)
        group = list(range(30))  # by hand: the smallest number reachable, until nothing changes
        while True:
            before = list(group)
            for i in range(30):
                for j, is_same in zip(neighbours[i], repeated[i], strict=True):
                    if is_same:
                        group[i] = group[j] = min(group[i], group[j])
            if group == before:
                break
        want = [[i for i in range(30) if group[i] == g] for g in sorted(set(group))]
        assert groups(neighbours, repeated) == [members for members in want if len(members) > 1]


def test_copies_are_listed_with_the_largest_to_keep(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 60, side=40)
    first = sorted((photos / "kind0").iterdir())[0]
    Image.open(first).resize((80, 80)).save(photos / "kind0" / "large.png")
    Image.open(first).save(photos / "kind1" / "copy.png")
    unlabeled.train(photos, tmp_path / "run", cache=tmp_path / "cache", **SETTINGS)
    found = json.loads((tmp_path / "run" / "duplicates.json").read_text())
    assert found["images"] == found["looked_at"] == 62
    wanted = {f"kind0/{first.name}", "kind0/large.png", "kind1/copy.png"}
    [group] = [one for one in found["groups"] if one["keep"] in wanted]
    assert group["keep"] == "kind0/large.png"
    assert {one["path"] for one in group["others"]} == wanted - {"kind0/large.png"}
    assert found["copies"] == sum(len(one["others"]) for one in found["groups"])
