"""`unlabeled demo`: the main job on photographs that come with the dependencies, scored where the answer is known."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unlabeled import progress, session
from unlabeled.config import DataFacts
from unlabeled.data.photographs import (
    demo_set,
    photograph_files,
)
from unlabeled.data.store import ImageStore
from unlabeled.distributed import barrier, is_main, process_group
from unlabeled.errors import Interrupted, typed
from unlabeled.recipes import configure
from unlabeled.run import Run
from unlabeled.runs.folder import IfExists, RunFolder, reserve
from unlabeled.writing import write_json

CROP_SIDE = 32
"""Pixels a crop of the photographs is resized to."""
DEMO_IMAGES = 3600
"""Crops to train on."""


def demonstrate(out: Path, device: str, if_exists: IfExists, settings: dict[str, Any]) -> dict[str, Any]:
    """See `unlabeled.demo`."""
    kind = session.prepare_device(device)
    with process_group(kind), ExitStack() as ending:
        # What cannot work is said before anything is made, and before anything of an earlier run goes.
        photograph_files()
        configure("demo", DataFacts(DEMO_IMAGES, 3, CROP_SIDE, CROP_SIDE, is_colour=True, device=kind), settings)
        run = reserve(out, if_exists) if is_main() else RunFolder(out)
        ending.callback(run.release)
        if is_main() and run.exists:
            run.hold()
        is_new = if_exists == "replace" or not run.exists
        photographs = run.path / "photographs"
        train, test = photographs / "train", photographs / "test"
        if is_main() and is_new and photographs.exists():
            # They depend on the seed.
            shutil.rmtree(photographs)
        if is_main() and not test.is_dir():
            # The photographs lie in the run; a mark says whose folder it is if they are all that is ever made.
            run.make()
            write_photographs(train, test, seed=int(settings.get("seed", 0)))
        barrier()
        begun = time.monotonic()
        opened = (
            session.begin(run, str(train), "demo", None, kind, run.path / "cache", settings)
            if is_new
            else session.reopen(run)
        )
        # The report comes below, with the scores in it.
        session.execute(run, *opened, device=kind, report=False)
        seconds = time.monotonic() - begun
        try:
            return _scored(Run(run.path, kind), opened[0], train, test, seconds)
        except KeyboardInterrupt:
            again = f"unlabeled demo --out {typed(out)} --if-exists resume"
            raise Interrupted(f"Stopped; the training is kept, not all scores. Continue with `{again}`.") from None


def _scored(trained: Run, store: ImageStore, train: Path, test: Path, seconds: float) -> dict[str, Any]:
    """Score the finished run, write RUN/demo.json and the report."""
    progress.say("Scoring: which photograph is a crop from?")
    scores = trained.evaluate("knn", train, test=test)
    last = trained.history[-1]
    result = {
        "raw_pixels": scores["raw_pixels"],
        "untrained": scores["untrained"],
        "trained": scores["knn"],
        "train_images": scores["train_images"],
        "test_images": scores["test_images"],
        "training_seconds": round(seconds, 1),
        "status": last["status"],
        "verdict": last["verdict"],
    }
    if is_main():
        write_json(trained.path / "demo.json", result)
        trained.report(store=store)
    return result


def write_photographs(train: Path, test: Path, seed: int) -> None:
    """Cut the crops and write them as class folders, so that they can be looked at and searched like any folder."""
    crops = demo_set(CROP_SIDE, seed)
    for folder, images, labels in ((train, crops.train, crops.train_labels), (test, crops.test, crops.test_labels)):
        partial = folder.with_name(f".{folder.name}.partial")
        written: Counter[int] = Counter()
        for pixels, label in zip(images, labels.tolist(), strict=True):
            path = partial / crops.class_names[label] / f"{written[label]:04d}.png"
            written[label] += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(pixels)).save(path, compress_level=1)
        partial.rename(folder)
