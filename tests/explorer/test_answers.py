from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from explored import EVIL, Explored
from pictures import Trained
from unlabeled.errors import DataError, RunError
from unlabeled.explorer import map
from unlabeled.explorer.queries import Answers, NotThere
from unlabeled.report import overview
from unlabeled.run import Run


def test_pages_of_clusters_and_members_hold_everything_once(explored: Explored):
    answers = explored.answers
    numbers = [c["number"] for offset in (0, 4) for c in answers.clusters("number", offset, 4)["clusters"]]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == answers.about()["clusters"]
    seen: list[int] = []
    for number in numbers:
        offset = 0
        while images := answers.cluster(number, "typical", offset, 7)["images"]:
            assert all(image["cluster"] == number for image in images)
            seen += [image["index"] for image in images]
            offset += 7
    assert sorted(seen) == list(range(120))
    assert answers.clusters("size", 10**6, 5)["clusters"] == []


def test_neighbours_agree_with_the_search_of_the_run(explored: Explored):
    query = explored.photos / "kind1" / "005.png"
    wanted = explored.run.search(query, 6)[str(query)]
    found = explored.answers.search(query.read_bytes(), 6)
    assert [image["name"] for image in found["neighbours"]] == [hit.path for hit in wanted]
    assert [image["similarity"] for image in found["neighbours"]] == pytest.approx(
        [h.similarity for h in wanted], abs=1e-5
    )
    assert wanted[0].path == "kind1/005.png"
    belongs = explored.run.cluster(query)[0]
    assert (found["cluster"], found["unlike"]) == (belongs.cluster, belongs.unlike)
    beside = explored.answers.image(explored.index("kind1/005.png"), 5)["neighbours"]
    assert [image["name"] for image in beside] == [hit.path for hit in wanted[1:]]


def test_find_by_name_and_number(explored: Explored):
    answers = explored.answers
    assert answers.find(" KIND2/ ", 0, 10)["total"] == 30
    assert [i["name"] for i in answers.find("<script>", 0, 10)["images"]] == [EVIL]
    by_number = answers.find("7", 0, 10)
    assert by_number["images"][0]["index"] == 7
    assert len({image["index"] for image in by_number["images"]}) == len(by_number["images"])
    assert answers.find("٣", 0, 10)["total"] == 0  # a digit, but no number of an image
    with pytest.raises(DataError, match="nothing to look for"):
        answers.find("  ", 0, 10)


def test_numbers_that_are_none(explored: Explored):
    for number in (-1, 120, 10**17):
        with pytest.raises(NotThere, match="0 to 119"):
            explored.answers.image(number)
    with pytest.raises(NotThere, match="0 to 5"):
        explored.answers.cluster(6, "typical", 0, 1)


def test_uploads_that_are_no_image(explored: Explored):
    for content, reason in ((b"", "the file is empty"), (b"hello", ""), ((b"\x89PNG\r\n\x1a\n" + b"x" * 50), "")):
        with pytest.raises(DataError, match=f"this file cannot be searched for: .*{reason}"):
            explored.answers.search(content)


def test_nothing_is_written(explored: Explored):
    def state(folder: Path) -> dict[str, str]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {
            str(path): hashlib.blake2b(path.read_bytes()).hexdigest() + str(path.stat().st_mtime_ns) for path in files
        }

    folders = (explored.run.path, explored.photos, Path(explored.run.record.cache or ""))
    before = [state(folder) for folder in folders]
    answers = Run(explored.run.path, "cpu").answers
    answers.about()
    answers.pictures.thumbnail(5)
    answers.search((explored.photos / "kind1" / "009.png").read_bytes())
    assert [state(folder) for folder in folders] == before


def test_runs_that_cannot_be_explored(explored: Explored, tmp_path: Path, trained: Trained):
    import shutil

    shutil.copytree(trained.run, tmp_path / "run")
    (tmp_path / "run" / "features.safetensors").unlink()
    with pytest.raises(RunError, match="no features yet"):
        _ = Run(tmp_path / "run", "cpu").answers


def test_of_more_images_than_the_report_shows_all_have_their_colours(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (overview, map):
        monkeypatch.setattr(module, "even_sample", lambda total: np.arange(0, total, 4))
    shutil.copytree(trained.run, tmp_path / "run")
    run = Run(tmp_path / "run", "cpu")
    run.folder.projection.unlink(missing_ok=True)
    run.folder.statistics.unlink()

    def the_map() -> tuple[bool, dict[str, NDArray[np.uint8]]]:
        found = Answers(run).places
        while not (about := found.state())["ready"]:
            pass
        assert about["count"] == 120
        names = [one["name"] for one in about["colourings"]]
        return about["measured"], {
            name: np.frombuffer(found.packed(str(i)), "u1") for i, name in enumerate(names) if name != "folder"
        }

    is_measured, colours = the_map()
    assert not is_measured
    assert "brightness" not in colours
    store = run.record.open(run.record.data)
    seen = overview.overview(run, store)
    assert len(seen.atlas.names) == 30
    is_measured, colours = the_map()
    assert is_measured
    assert {"brightness", "contrast", "sharpness"} <= set(colours)
    expected = np.array([store.pixels(i).float().mean() for i in range(120)])
    ranks = colours["brightness"].argsort(kind="stable")
    assert (np.diff(expected[ranks]) > -0.01 * 255).all()
    # What was measured of other images is not shown.
    save_file({"measured": torch.zeros(30, 7)}, run.folder.statistics)
    assert not the_map()[0]
