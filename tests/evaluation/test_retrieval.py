"""Instance retrieval: the whitening, crops and rankings by hand, and the verb on real images with wrong input."""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unlabeled
from oxford_pictures import write_oxford
from pictures import Trained
from unlabeled import progress
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.retrieval import (
    Moments,
    RetrievalProtocol,
    expand_queries,
    learn_projection,
    prepare,
    region_descriptors,
    regions,
    rmac,
)
from unlabeled.run import Run


def moments_of(rows: torch.Tensor, pieces: int = 1) -> Moments:
    found = Moments.zero(rows.shape[1])
    for piece in rows.chunk(pieces):
        found.add(piece)
    return found


def test_regions_lie_on_the_map_and_cover_it():
    for height, width in [(1, 1), (2, 9), (9, 2), (5, 5), (17, 23), (64, 3)]:
        for levels in (1, 3, 4):
            left, top, wide, high = regions(height, width, levels).T
            assert (wide == high).all() and (wide > 0).all() and (left >= 0).all() and (top >= 0).all()
            assert (left + wide).max() == width and (top + high).max() == height
    with pytest.raises(DataError, match="a map of 0 x 4"):
        regions(0, 4)


def test_region_descriptors_against_a_loop():
    maps = torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    found = region_descriptors(maps, 2)
    for number, (x, y, wide, high) in enumerate(regions(6, 9, 2).tolist()):
        wanted = torch.stack([maps[:, c, y : y + high, x : x + wide].flatten(1).max(1).values for c in range(3)], dim=1)
        torch.testing.assert_close(found[:, number], wanted / wanted.norm(dim=1, keepdim=True))


def test_the_whitening_makes_the_covariance_the_identity_and_clamps_what_is_small():
    random = torch.Generator().manual_seed(1)
    rows = torch.randn(500, 6, generator=random) * torch.tensor([4.0, 2, 1, 0.5, 0.1, 1e-5]) + 3
    projection = learn_projection(moments_of(rows, 7), 6)
    white = (rows - projection.mean) @ projection.matrix.T
    covariance = white.T @ white
    torch.testing.assert_close(covariance[:5, :5], torch.eye(5), atol=2e-3, rtol=0)
    # The last axis is far below 1e-5 of the largest eigenvalue: it stays small instead of being blown up.
    assert float(covariance[5, 5]) < 0.01
    assert learn_projection(moments_of(rows), 3).matrix.shape == (3, 6)
    torch.testing.assert_close(
        learn_projection(moments_of(rows)).matrix.abs(), projection.matrix.abs(), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(DataError, match="500 regions of the images for --pca all look the same"):
        learn_projection(moments_of(torch.full((500, 6), 0.3)))


def test_a_descriptor_is_the_unit_sum_of_whitened_unit_regions():
    random = torch.Generator().manual_seed(2)
    descriptors = region_descriptors(torch.rand(2, 4, 5, 7, generator=random))
    projection = learn_projection(moments_of(descriptors.flatten(0, 1)), 3)
    for image, found in zip(descriptors, rmac(descriptors, projection), strict=True):
        total = torch.zeros(3)
        for region in image:
            white = projection.matrix @ (region - projection.mean)
            total += white / white.norm()
        torch.testing.assert_close(found, total / total.norm())


def test_the_box_is_cut_after_resizing_and_not_resized_again():
    image = torch.arange(40 * 20, dtype=torch.int64).remainder(251).to(torch.uint8).view(40, 20, 1)
    whole = prepare(image, 80)
    assert whole.shape == (1, 1, 80, 40)  # enlarged: the larger side is what was asked
    assert prepare(image, 20).shape == (1, 1, 20, 10)
    assert torch.equal(prepare(image, 40)[0, 0], image[:, :, 0])
    crop = prepare(image, 80, (2.2, 5.0, 12.4, 30.0))
    assert torch.equal(crop, whole[:, :, 10:60, 4:25])
    # What lies outside is not there.
    assert torch.equal(prepare(image, 80, (-5, 30, 10, 99)), whole[:, :, 60:, :20])
    for box in [(25.0, 0.0, 30.0, 5.0), (0.0, -9.0, 5.0, -1.0)]:
        with pytest.raises(DataError, match="lies outside the image of 20 x 40 pixels"):
            prepare(image, 80, box)


def test_ranking_junk_missing_and_unreadable_images():
    gallery = torch.eye(5)
    gallery[3] = torch.nan  # cannot be read
    queries = torch.tensor([[0.5, 0.9, 0.8, 0.0, 0.1]])
    # The ranking is 1, 2, 0, 4.
    arrays = [np.array(values, np.int64) for values in ([0, 4], [1])]
    protocol = RetrievalProtocol(gallery, queries, arrays[:1], arrays[1:])
    # Without 1: hits at 2 and 3 of (2, 0, 4), precision before them 0 and 1/2.
    assert protocol.per_query() == pytest.approx([((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2])
    absent = RetrievalProtocol(gallery, queries, [np.array([0, 4, 3, 7])], arrays[1:])
    assert dict(absent.run())["mean_ap"] == pytest.approx(protocol.per_query()[0] / 2)
    many = RetrievalProtocol(torch.eye(200), torch.eye(200)[:4], [np.arange(20)] * 4, [np.array([], np.int64)] * 4)
    assert many.chance(0) == pytest.approx(0.12, abs=0.03)


def test_average_query_expansion_by_hand():
    gallery = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    queries = torch.tensor([[0.96, 0.28]])
    best_two = queries + gallery[[0, 1]].sum(0)
    torch.testing.assert_close(expand_queries(queries, gallery, 2), best_two / best_two.norm())
    torch.testing.assert_close(expand_queries(queries, gallery, 0), queries)
    assert expand_queries(queries, gallery, 99).shape == (1, 2)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_oxford(tmp_path_factory.mktemp("retrieval") / "oxford")


def test_the_verb_end_to_end(trained: Trained, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from unlabeled import cli

    line = [
        "evaluate",
        "retrieval",
        trained.run,
        asked / "images",
        "--ground-truth",
        asked / "gt",
        "--pca",
        asked / "other",
    ]
    line += ["--side", 48, "--expand", 2, "--scales", "0.7,1", "--json", tmp_path / "r.json", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in line])
    assert not ended.value.code
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    assert "mean_ap" in printed and "untrained" in printed
    assert found["queries"] == 3 and found["gallery_images"] == 24 and found["pca_images"] == 12
    assert found["sides"] == {"0.7": 34, "1": 48} and found["side"] == 48 and found["dims"] == 256
    assert found["mean_ap"] == pytest.approx(np.mean(list(found["per_query"].values())))
    assert list(found["untrained_per_query"]) == ["thing0_1", "thing1_1", "thing2_1"]
    assert found["mean_ap"] > 0.8 > found["chance"]
    run = Run(trained.run, "cpu")
    again = run.evaluate(
        "retrieval", asked / "images", ground_truth=asked / "gt", pca=asked / "other", side=48, quick=True
    )
    assert again["queries"] == 3 and again["expand"] == 0


def test_an_interrupted_call_goes_on(trained: Trained, asked: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run(trained.run, "cpu")
    options: dict[str, Any] = {"ground_truth": asked / "gt", "pca": asked / "other", "side": 32}
    whole = run.evaluate("retrieval", asked / "images", **options)
    door = importlib.import_module("unlabeled.protocols.retrieval")  # the package has a function of that name
    monkeypatch.setattr(door, "CHUNK", 8)
    calls, real = 0, door.region_descriptors

    def stops(maps: torch.Tensor, levels: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return real(maps, levels)

    monkeypatch.setattr(door, "region_descriptors", stops)
    with pytest.raises(KeyboardInterrupt):
        run.evaluate("retrieval", asked / "images", **options)
    begun = calls
    assert run.evaluate("retrieval", asked / "images", **options) == whole
    # 39 images through two networks are 78; of 30 begun at least 24 were kept.
    assert calls - begun <= 78 - 24


def test_what_is_wrong_is_a_sentence(trained: Trained, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    run = Run(trained.run, "cpu")
    given: dict[str, Any] = {"ground_truth": asked / "gt", "pca": asked / "other", "side": 32}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"ground_truth": None}, "--ground-truth DIR"),
        ({"pca": None}, "the papers take Paris for Oxford"),
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"expand": -1}, "expand must be at least 0"),
        ({"scales": "1,x"}, "scales must be factors"),
        ({"test": asked / "images"}, "takes no --test"),
    ]
    for changes, sentence in wrong:
        with pytest.raises((ConfigError, DataError), match=sentence):
            run.evaluate("retrieval", asked / "images", **(given | changes))
    lists, images = tmp_path / "gt", tmp_path / "images"
    for source, target in ((asked / "gt", lists), (asked / "images", images)):
        target.mkdir()
        for file in source.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
    (lists / "thing0_1_query.txt").write_text("oxc1_t0_0 500 2 600 38")  # outside
    (lists / "thing1_1_query.txt").write_text("oxc1_t1_0 2 2 4 4")  # nothing left for the network
    (images / "t2_3.png").write_bytes(b"no image")
    (images / "t2_4.png").unlink()
    given |= {"ground_truth": lists}
    found = run.evaluate("retrieval", images, **given)
    assert found["queries"] == 1 and found["gallery_images"] == 22 and found["missing_images"] == 2
    notes = " ".join(said)
    assert "t0_0.png is left out of the queries: the box 500 2 600 38 lies outside the image of 36 x 40 pixels" in notes
    assert "too small for alexnet_small; raise --side" in notes
    assert "t2_3.png is left out of the images: it is text, not an image" in notes and "t2_4" in notes
    (lists / "thing2_1_query.txt").write_text("t2_0 90 90 99 99")
    with pytest.raises(DataError, match="none of 3 queries can be asked"):
        run.evaluate("retrieval", images, **given)
    said.clear()
    run.evaluate("retrieval", asked / "images", ground_truth=asked / "gt", pca=asked / "images", side=24)
    assert any("learned on the images that are searched" in note for note in said)


def test_real_objects(shared_data: Path, trained: Trained, tmp_path: Path):
    archive = shared_data / "coil20-retrieval" / "coil20-retrieval.zip"
    if not archive.is_file():
        pytest.skip("needs the images of coil20-retrieval")
    with zipfile.ZipFile(archive) as file:
        wanted = [
            name
            for name in file.namelist()
            if any(f"{kind}{n:02d}_" in name for kind in ("obj", "object") for n in (1, 4))
        ]
        file.extractall(tmp_path, [name for name in wanted if not name.endswith(".png") or int(name[-7:-4]) % 20 == 0])
    folder = tmp_path / "coil20-retrieval"
    run = unlabeled.load(trained.run, device="cpu")
    found = run.evaluate(
        "retrieval", folder / "images", ground_truth=folder / "gt", pca=trained.photos, side=32, quick=True
    )
    assert found["mean_ap"] > 1.5 * found["chance"]
    assert found["missing_images"] > 0
