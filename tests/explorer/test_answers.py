from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from explored import EVIL, Explored
from pictures import Trained
from unlabeled.errors import DataError, RunError
from unlabeled.explorer.answers import NotThere
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
