"""The claims: the rule of the verdict by hand, valid configurations, generated images, and one claim from end to end."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.claims import __main__ as program
from benchmarks.claims import contents, draws, measures, runner, sizes, table, table1
from benchmarks.claims.claim import Above, Arm, Claim, Within
from benchmarks.claims.data import HUES, SHAPES, cifar10, coloured_shapes, photographs, zipf
from benchmarks.claims.imagesets import SELECTIONS, ImageSets
from benchmarks.claims.measures import MEASURES
from benchmarks.claims.verdict import judge, mean, spread, together

import unlabeled
from unlabeled.config import DataFacts
from unlabeled.errors import ConfigError, DataError, RunError
from unlabeled.methods import build_method
from unlabeled.recipes import RECIPES, configure

TINY = replace(sizes.SIZES["quick"], source="cifar", images=160, queries=60, epochs=1, batch=32, clusters=8)
ALL = [make(size) for size in sizes.SIZES.values() for make in (*contents.CLAIMS, table1.table1)]


def folders(root: Path) -> Path:
    """Twenty-four pictures a class of a set of two classes, in class folders as CIFAR-10 is often kept."""
    from PIL import Image

    random = np.random.default_rng(0)
    for part, count in (("train", 100), ("test", 40)):
        for label, low in (("dark", 0), ("light", 90)):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(low, low + 160, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders(tmp_path_factory.mktemp("cifar"))


# The rule


def test_a_difference_is_one_where_it_exceeds_the_spread_over_seeds() -> None:
    low, high = [0.40, 0.41, 0.43], [0.46, 0.45, 0.44]
    assert spread(low) == pytest.approx(0.03)
    assert mean(high) - mean(low) == pytest.approx(0.45 - 1.24 / 3)
    assert judge(mean(high) - mean(low), low, high) == "holds"
    assert judge(mean(low) - mean(high), low, high) == "does not hold"
    assert judge(0.029, low, high) == judge(-0.029, low, high) == "not resolved"


def test_two_seeds_resolve_nothing() -> None:
    assert judge(1.0, [0.0, 0.0], [1.0, 1.0]) == "not resolved"


def test_a_claim_of_parts_holds_if_all_do() -> None:
    assert together(["holds", "holds"]) == "holds"
    assert together(["holds", "not resolved"]) == "not resolved"
    assert together(["not resolved", "does not hold"]) == "does not hold"


def test_checks_by_hand() -> None:
    values = {"a": {"knn": [0.5, 0.5, 0.52], "before": [0.3, 0.3, 0.3]}, "b": {"knn": [0.44, 0.45, 0.46]}}
    assert Above("a", "b", "knn").outcome(values).gap == pytest.approx(1.52 / 3 - 0.45)
    assert Above("a", "b", "knn").outcome(values).verdict == "holds"
    assert Above("a", "b", "knn", by=0.05).outcome(values).verdict == "not resolved"
    assert Above("a", "b", "knn", by=0.1).outcome(values).verdict == "does not hold"
    assert Above("b", "a", "knn", by=-0.1).outcome(values).verdict == "holds"
    assert Above("a", "a", "knn", low_score="before").outcome(values).verdict == "holds"
    assert Within("a", "b", "knn", 0.1).outcome(values).gap == pytest.approx(0.1 - (1.52 / 3 - 0.45))
    assert Within("a", "b", "knn", 0.1).outcome(values).verdict == "holds"
    assert Within("a", "b", "knn", 0.02).outcome(values).verdict == "does not hold"


# The table of contents


def test_all_fourteen_claims_are_there() -> None:
    claims = [make(sizes.SIZES["full"]) for make in contents.CLAIMS]
    assert [claim.number for claim in claims] == list(range(1, 15))
    assert len({claim.name for claim in claims}) == 14
    assert set(contents.ON_CPU) == {1, 2, 3, 7, 8, 11}


@pytest.mark.parametrize("size", sizes.SIZES.values(), ids=lambda size: size.name)
def test_every_configuration_is_one_of_its_recipe(size: sizes.Size) -> None:
    facts = DataFacts(size.images, 3, 32, 32, True, "cuda" if size.name == "full" else "cpu")
    for make in (*contents.CLAIMS, table1.table1):
        for arm in make(size).arms.values():
            asked = sizes.settings(arm.base, size) | dict(arm.changes)
            recipe = asked.pop("recipe")
            assert recipe in RECIPES
            asked.pop("device")
            config = configure(recipe, facts, asked)
            assert {name: getattr(config, name) for name in asked} == asked
            assert arm.images in {"main", "shapes", *SELECTIONS}
            if size.name == "quick" and config.backbone == "alexnet_small":
                build_method(config, 512, 3)  # sizes and settings go together


@pytest.mark.parametrize("claim", ALL, ids=lambda claim: claim.name)
def test_claims_are_consistent(claim: Claim) -> None:
    assert set(claim.measures) <= set(MEASURES)
    assert len({arm.slug() for arm in claim.arms.values()}) == len(claim.arms)
    names = {*claim.arms, *claim.computed}
    for check in claim.checks:
        used = {check.high, check.low} if isinstance(check, Above) else {check.one, check.other}  # pyright: ignore
        assert used <= names


def test_claims_are_chosen_by_name_number_and_group() -> None:
    size = sizes.SIZES["cpu"]
    assert [claim.number for claim in contents.chosen(["few-labels", "2", "1"], size)] == [1, 2, 11]
    assert [claim.number for claim in contents.chosen(["a"], size)] == list(contents.ON_CPU)
    assert len(contents.chosen(["all"], size)) == 14
    with pytest.raises(ConfigError, match="permutation"):
        contents.chosen(["permutations"], size)


def test_equal_configurations_are_trained_once(tmp_path: Path) -> None:
    bench = runner.Bench(tmp_path, tmp_path, "cpu", (0, 1))
    claims = contents.chosen(["1", "2", "11"], bench.size)
    work = bench.work(claims)
    assert len(work) == 2 * (2 + 3 + 1)
    shared = next(measures for arm, seed, measures in work if arm == Arm("instance"))
    assert shared == ("few_labels", "knn", "output")


# Images


def test_shapes_are_deterministic_and_colour_says_nothing() -> None:
    made = coloured_shapes(640)
    assert made.pixels.shape == (640, 32, 32, 3) and made.pixels.dtype == np.uint8
    assert np.array_equal(made.pixels, coloured_shapes(640).pixels)
    assert not np.array_equal(made.pixels, coloured_shapes(640, seed=1).pixels)
    assert made.colours is not None
    counts = np.zeros((len(SHAPES), HUES), int)
    np.add.at(counts, (made.labels, made.colours), 1)
    assert (counts == 10).all()


def test_shapes_have_the_colour_they_are_said_to_have() -> None:
    made = coloured_shapes(128, noise=0)
    assert made.colours is not None
    # The hue of the pixel that differs most from the corner is that of the shape.
    difference = np.abs(made.pixels.astype(int) - made.pixels[:, :1, :1]).sum(axis=3).reshape(128, -1)
    pixel = made.pixels.reshape(128, -1, 3)[np.arange(128), difference.argmax(axis=1)].astype(float)
    high, low = pixel.max(axis=1), pixel.min(axis=1)
    red, green, blue = pixel.T
    span = np.maximum(high - low, 1)
    turns = np.select(
        [high == red, high == green], [(green - blue) / span % 6, (blue - red) / span + 2], (red - green) / span + 4
    )
    off = (turns / 6 - made.colours / HUES + 0.5) % 1 - 0.5
    assert (np.abs(off) < 0.5 / HUES).mean() > 0.95


def test_zipf_by_hand() -> None:
    labels = np.repeat(np.arange(4), 100)
    chosen = zipf(labels, 100)
    counts = sorted(np.bincount(labels[chosen]).tolist(), reverse=True)
    assert counts == [48, 24, 16, 12]  # 100 / (1 + 1/2 + 1/3 + 1/4) times 1, 1/2, 1/3, 1/4
    assert np.array_equal(chosen, zipf(labels, 100)) and len(set(chosen.tolist())) == 100
    with pytest.raises(DataError, match="fewer"):
        zipf(labels, 300)


def test_photographs_are_balanced() -> None:
    images = photographs("test", 40)
    assert images.pixels.shape == (40, 32, 32, 3)
    assert set(np.bincount(images.labels).tolist()) == {2, 3}


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_as_downloaded(tmp_path: Path, packed: bool) -> None:
    data = tmp_path / "cifar-10-batches-bin"
    data.mkdir()
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (20, 1 + 3 * 32 * 32), dtype=np.uint8)
    rows[:, 0] = np.arange(20) % 10
    (data / "data_batch_1.bin").write_bytes(rows[:10].tobytes())
    (data / "test_batch.bin").write_bytes(rows[10:].tobytes())
    (data / "batches.meta.txt").write_text("\n".join(f"class_{c}" for c in range(10)))
    if packed:
        with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
            archive.add(data, data.name)
        data = tmp_path / "cifar-10-binary.tar.gz"
    for part, own in (("train", rows[:10]), ("test", rows[10:])):
        images = cifar10(data, part, len(own))
        wanted = {row[0]: row[1:].reshape(3, 32, 32).transpose(1, 2, 0) for row in own}
        assert len(images) == len(own)
        assert all(np.array_equal(pixels, wanted[c]) for pixels, c in zip(images.pixels, images.labels, strict=True))


def test_cifar_from_class_folders(pictures: Path) -> None:
    images = cifar10(pictures, "train", 61)
    assert images.pixels.shape == (61, 32, 32, 3)
    assert sorted(np.bincount(images.labels).tolist()) == [30, 31]
    light = images.pixels[images.labels == 1].mean()
    assert light > images.pixels[images.labels == 0].mean() + 60
    with pytest.raises(DataError, match="200"):
        cifar10(pictures, "train", 201)
    with pytest.raises(DataError, match="--data"):
        cifar10(pictures / "train", "train", 10)


def test_cifar_from_tiles(shared_data: Path) -> None:
    images = cifar10(shared_data / "cifar10", "test", 500)
    assert np.bincount(images.labels).tolist() == [50] * 10
    assert images.pixels.std() > 40


def test_sets_share_what_scores_them(pictures: Path, tmp_path: Path) -> None:
    sets = ImageSets(tmp_path, pictures, TINY)
    level, skewed = sets["level"], sets["skewed"]
    assert level.gallery == skewed.gallery and level.train != skewed.train
    assert len(np.load(level.train)) == len(np.load(skewed.train)) == 120  # 80 · (1 + 1/2)
    assert len(level.gallery_labels) == 160 and len(level.query_labels) == 60
    assert sets["shapes"].gallery_colours is not None and level.gallery_colours is None


# The released sampler


def test_the_released_indexing_balances_nothing() -> None:
    shares = {name: draws.share_of_largest(0, draw) for name, draw in draws.DRAWS.items()}
    assert shares["uniform draw"]["largest_drawn"] == pytest.approx(0.01, abs=0.002)
    assert shares["every image once"]["largest_drawn"] == shares["uniform draw"]["largest_cluster"]
    assert shares["every image once"]["largest_drawn"] == pytest.approx(0.193, abs=0.015)
    assert shares["released indexing"]["largest_drawn"] == pytest.approx(0.193, abs=0.03)


# End to end


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "quick", TINY)


def test_one_claim_from_end_to_end(
    pictures: Path, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["skew", "--size", "quick", "--seeds", "0,1,2", "--out", str(out), "--data", str(pictures)]
    assert program.main([*asked, "--json", str(tmp_path / "claims.json")]) == 0
    printed = capsys.readouterr()
    assert "6 of 6" in printed.err and "to go" in printed.err
    assert "| skewed |" in printed.out and "direction not claimed" in printed.out
    record = json.loads((tmp_path / "claims.json").read_text())
    scores = record["claims"][0]["scores"]
    assert all(len(scores[arm]["knn"]) == 3 and min(scores[arm]["knn"]) >= 0 for arm in ("level", "skewed"))
    assert {"commit", "torch", "command", "seeds"} <= record["facts"].keys()

    # Finished runs are read, whatever happens to the trainer.
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(unlabeled, "train", forbidden)
    assert program.main(asked) == 0
    again = capsys.readouterr()
    assert again.out.split("### 13")[1] == printed.out.split("### 13")[1]
    # A run that is finished and not scored is only scored.
    monkeypatch.undo()
    monkeypatch.setitem(sizes.SIZES, "quick", TINY)
    monkeypatch.setattr(unlabeled, "train", forbidden)
    (out / "quick" / "skewed" / "deepcluster" / "base" / "seed-1.json").unlink()
    assert program.main(asked) == 0
    assert capsys.readouterr().out.split("### 13")[1] == printed.out.split("### 13")[1]


def test_other_settings_are_not_taken_for_these(pictures: Path, tmp_path: Path, tiny: None) -> None:
    bench = runner.Bench(tmp_path, pictures, "quick", (0,))
    arm = Arm("random")
    scores = bench.score(arm, 0, ("knn",))
    assert scores is not None and scores["knn"] == scores["untrained"]
    record = json.loads((bench.place(arm, 0).with_suffix(".json")).read_text())
    record["asked"]["epochs"] = 5
    bench.place(arm, 0).with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="epochs"):
        bench.score(arm, 0, ("knn",))


def test_every_measure_gives_fractions(pictures: Path, tmp_path: Path, tiny: None) -> None:
    bench = runner.Bench(tmp_path, pictures, "quick", (0,))
    few = Arm("deepcluster", {"num_clusters": 4, "epochs": 2, "reassign_every": 1})
    scores = bench.score(few, 0, ("knn", "output", "published", "stages", "predictions", "agreement"))
    assert scores is not None
    assert {"conv1", "conv5", "nmi_last", "stability_last", "prediction_entropy", "top_answer"} <= scores.keys()
    shapes = bench.score(replace(few, images="shapes"), 0, ("agreement_with_colour",))
    assert shapes is not None
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in (*scores.values(), *shapes.values()))


def test_few_labels_are_tuned_on(pictures: Path, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "FEW", (2, 4))
    monkeypatch.setitem(sizes.SIZES, "quick", replace(TINY, tuning_epochs=1))
    bench = runner.Bench(tmp_path, pictures, "quick", (0,))
    scores = bench.score(Arm("random"), 0, ("few_labels",))
    assert scores is not None and set(scores) == {"tuned_2", "tuned_4"}


def test_table1_never_mixes_columns(pictures: Path, tmp_path: Path, tiny: None) -> None:
    values = {row: {"knn_recomputed": [0.5], "untrained_vote": [0.4]} for row in table1.ROWS}
    text = table1.markdown(values, {"Param softmax": 2.0}, sizes.SIZES["full"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0][-1].startswith("paper") and rows[2] == ["Param softmax", "50.0", "", "40.0", "2.0", "63.0"]
    assert [row[-1] for row in rows[2:]] == ["63.0", "80.8", "42.5", "63.4", "78.4", "80.4"]


def test_the_table_says_what_was_not_run() -> None:
    claim = Claim(
        1, "n", "s", "p", {"a": Arm("nat"), "b": Arm("nat", {"lr": 1.0})}, ("knn",), ("knn",), (Above("a", "b", "knn"),)
    )
    found = table.result(claim, {"a": {"knn": [0.1]}, "b": {}}, claimed=True)
    assert found["verdict"] == "not run" and found["checks"][0]["verdict"] == "not run"
    assert "| a | .100 |" in table.markdown([found], {})


def test_wrong_names_and_seeds_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["sobell", "--out", str(tmp_path)]) == 1
    assert "sobel" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["sobel", "--seeds", "one"])
    assert "whole numbers" in capsys.readouterr().err
    assert program.main([]) == 0
    assert "table1" in capsys.readouterr().out
