"""A run to explore: one file has a name that is HTML, one is gone, one is damaged."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pictures import Trained
from unlabeled.explorer.queries import Answers
from unlabeled.run import Run

EVIL = "kind0/<img src=x onerror=alert(1)><script>alert(1)<.png"
GONE = "kind1/001.png"
BROKEN = "kind2/002.png"


@dataclass(frozen=True)
class Explored:
    run: Run
    answers: Answers
    photos: Path

    def index(self, name: str) -> int:
        return self.run.names.index(name)


def make_explored(trained: Trained, folder: Path, *, with_accidents: bool = True) -> Explored:
    """A copy of the trained run with a strange name, and photographs that had accidents."""
    photos, path = folder / "photos", folder / "run"
    shutil.copytree(trained.photos, photos)
    shutil.copytree(trained.run, path)
    (photos / "kind0" / "000.png").rename(photos / EVIL)
    if with_accidents:
        (photos / GONE).unlink()
        (photos / BROKEN).write_bytes((photos / BROKEN).read_bytes()[:60])
    with (path / "clusters.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    with (path / "clusters.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[EVIL if row[0] == "kind0/000.png" else row[0], *row[1:]] for row in rows])
    data = json.loads((path / "data.json").read_text())
    (path / "data.json").write_text(json.dumps(data | {"data": str(photos)}))
    run = Run(path, "cpu")
    return Explored(run, run.answers, photos)
