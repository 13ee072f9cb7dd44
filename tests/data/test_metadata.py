"""Tables of what is known of images besides their pixels: read, explained, offered as colours, remembered."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import unlabeled
from command_line import Call, call
from pictures import Trained, write_pictures
from unlabeled.data.image_statistics import Statistic
from unlabeled.data.metadata import MOST_CATEGORIES, of_rows, read_metadata, statistic_of
from unlabeled.data.sources import open_source
from unlabeled.errors import DataError
from unlabeled.evaluation.explain import correlation_ratio, explain
from unlabeled.report.overview import colourings
from unlabeled.run import Run


def test_numbers_dates_and_words() -> None:
    dose = statistic_of("dose", ["0.5", "1.25", "", "NA" * 0, "3"])
    assert dose is not None and dose.kind == "number"
    np.testing.assert_array_equal(dose.known, [True, True, False, False, True])
    plate = statistic_of("plate", ["1", "2", "1", ""])
    assert plate is not None and plate.categories == ("1", "2") and plate.values.tolist() == [0, 1, 0, -1]
    day = statistic_of("day", ["1970-01-02", "1970-01-03T12:00:00", "1970-01-11"])
    assert day is not None and day.is_date and day.values.tolist() == [1.0, 2.5, 10.0]
    site = statistic_of("site", ["forest", "lake", "forest"])
    assert site is not None and site.categories == ("forest", "lake")
    assert statistic_of("constant", ["a", "a", ""]) is None
    assert statistic_of("names", [f"image {k}" for k in range(MOST_CATEGORIES + 1)]) is None
    assert statistic_of("many", [str(k) for k in range(13)]).kind == "number"  # type: ignore[union-attr]


__all__ = ["call"]  # a fixture


def table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_rows_find_their_images_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 6)
    source = open_source(photos)
    rows = [["path", "site", "id", "lux"]]
    rows += [[name, "ab"[i % 2], "same", str(i + 0.5)] for i, name in enumerate(source.names[:-1])]
    found, notes = read_metadata(source, table(tmp_path / "m.csv", rows))
    assert [one.name for one in found] == ["site", "lux"]
    assert found[0].values.tolist() == [0, 1, 0, 1, 0, -1]
    assert found[1].values[:5].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5] and np.isnan(found[1].values[5])
    told = " ".join(notes.sentences())
    assert "1 image, the table of metadata has no row" in told and "left out (id)" in told
    some = of_rows(found, np.array([4, -1]))
    assert some[0].values.tolist() == [0, -1] and np.isnan(some[1].values[1])
    with pytest.raises(DataError, match="none tells images apart"):
        read_metadata(source, table(tmp_path / "n.csv", [["path", "id"], [source.names[0], "1"]]))
    with pytest.raises(DataError, match="does not exist"):
        read_metadata(source, tmp_path / "gone.csv")


def test_a_statistic_is_explained_on_the_images_that_have_it() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(4), 50)
    values = clusters + rng.normal(0, 0.3, 200)
    values[rng.random(200) < 0.3] = np.nan
    plate = np.where(rng.random(200) < 0.3, -1, clusters % 2).astype(float)
    given = [
        Statistic("lux", "number", values, "smaller", "larger"),
        Statistic("plate", "category", plate, "", "", ("p0", "p1")),
    ]
    found = {one.name: one for one in explain(given, clusters).statistics}
    known = np.isfinite(values)
    assert found["lux"].explained == pytest.approx(correlation_ratio(values[known], clusters[known]))
    assert found["lux"].explained > 0.8 and found["plate"].explained > 0.6
    shown = {one.name: one for one in colourings(given)}
    assert len(shown["lux"].categories) == 10
    assert (shown["lux"].values == -1).tolist() == (~known).tolist()


def test_the_report_the_explorer_and_the_run_take_metadata_and_labels(
    trained: Trained, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    names = Run(tmp_path / "run").names
    site = [["path", "site"], *([name, "north" if "kind0" in name else "south"] for name in names)]
    kind = [["path", "label"], *([name, name.split("/")[0]] for name in names)]
    metadata, labels = table(tmp_path / "metadata.csv", site), table(tmp_path / "kinds.csv", kind)
    status, _, told = call("report", tmp_path / "run", "--metadata", metadata, "--labels", labels)
    assert status == 0 and "Metadata: site." in told
    page = (tmp_path / "run" / "report.html").read_text()
    for word in ('"name":"site"', '"north","south"', '"name":"label"', '"kind0","kind1"'):
        assert word in page, word
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (record["metadata"], record["labels"]) == (str(metadata), str(labels))
    # The explorer asks the run, and so does the next report.
    run = unlabeled.load(tmp_path / "run")
    shown = [one.name for one in run.answers.places._colourings(None)]
    assert {"label", "site"} <= set(shown)
    metadata.unlink()
    run.report()
    assert "the metadata is left out" in capsys.readouterr().err
    with pytest.raises(DataError, match="does not exist"):
        run.report(metadata=metadata)


def test_labels_that_scored_the_training_images_colour_them(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    (tmp_path / "run" / "scores.json").unlink(missing_ok=True)
    run = unlabeled.load(tmp_path / "run")
    kinds = table(tmp_path / "kinds.csv", [["path", "label"], *([n, n.split("/")[0]] for n in run.names)])
    run.evaluate("nmi", labels=str(kinds))
    run.evaluate("nmi", trained.new, labels="folder")
    assert run.label_specs == [str(kinds)]
    assert '"kind0","kind1"' in run.report().read_text()


def test_training_remembers_its_metadata(tmp_path: Path) -> None:
    from pictures import SETTINGS

    photos = write_pictures(tmp_path / "photos", 48)
    names = open_source(photos).names
    site = table(tmp_path / "site.csv", [["path", "site"], *([n, "ab"[i % 2]] for i, n in enumerate(names))])
    run = unlabeled.train(photos, tmp_path / "run", cache=tmp_path / "cache", metadata=site, **SETTINGS)
    assert run.record.metadata == str(site)
    assert '"name":"site"' in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(DataError, match="no image of"):
        unlabeled.train(photos, tmp_path / "other", metadata=table(tmp_path / "x.csv", [["path", "a"], ["b.png", "1"]]))
    assert not (tmp_path / "other").exists()
