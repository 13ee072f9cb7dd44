"""`unlabeled demo`: the main job on photographs that come with the dependencies, scored where the answer is known."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unlabeled import progress, session
from unlabeled.config import DataFacts
from unlabeled.data.store import ImageStore
from unlabeled.distributed import barrier, is_main, process_group
from unlabeled.errors import DataError, Interrupted, MissingExtraError, typed
from unlabeled.randomness import numpy_generator
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


TRAIN_SHARE = 0.60
TEST_SHARE = 0.38
CROP_SIDES = (40, 96)

# Left out: the right twin of the motorcycle, drawings, binary pictures, and pictures too small to cut in two.
_PHOTOGRAPHS = {
    "skimage": (
        "data",
        (
            "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png",
            "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
            "page.png", "retina.jpg", "rocket.jpg",
        ),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class DemoSet:
    """Crops as uint8 [n, S, S, 3], the photograph each was cut from as int64 [n], and the photographs' names."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    class_names: list[str]


def demo_set(size: int = 32, seed: int = 0, *, train_per_photo: int = 200, test_per_photo: int = 60) -> DemoSet:
    """Cut the demonstration set: 18 photographs, 3,600 training and 1,080 test crops at the defaults.

    A crop is a square of 40 to 96 pixels (uniform), at a uniform place of its region, resized to `size` pixels with
    antialiasing; grey photographs are repeated to three channels. The crops come in random order. The same arguments
    give the same arrays.

    Raises MissingExtraError if scikit-image is not installed, DataError if a photograph is not where the wheel puts it.
    """
    if size < 1 or train_per_photo < 1 or test_per_photo < 1:
        given = f"size {size}, train_per_photo {train_per_photo}, test_per_photo {test_per_photo}"
        raise DataError(f"the demonstration set needs numbers of at least 1, got {given}; raise the one below 1.")
    files = photograph_files()
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for path in files:
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        width, height = photograph.size
        # Each region is cut off before anything is resampled: a filter can then not look across the border.
        left = photograph.crop((0, 0, int(TRAIN_SHARE * width), height))
        right = photograph.crop((width - int(TEST_SHARE * width), 0, width, height))
        train.append(_crops(left, train_per_photo, size, numpy_generator(seed, "demo crops", "train", path.stem)))
        test.append(_crops(right, test_per_photo, size, numpy_generator(seed, "demo crops", "test", path.stem)))
    train_images, train_labels = _shuffled(train, numpy_generator(seed, "demo order", "train"))
    test_images, test_labels = _shuffled(test, numpy_generator(seed, "demo order", "test"))
    return DemoSet(train_images, train_labels, test_images, test_labels, [path.stem for path in files])


def photograph_files() -> list[Path]:
    """Paths of the source photographs inside the installed packages, sorted by name.

    Raises MissingExtraError if scikit-image is not installed, DataError if a file is missing from its package.
    """
    files: list[Path] = []
    for package, (folder, names) in _PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError("The demonstration set of photographs", "demo")
        root = Path(next(iter(spec.submodule_search_locations)))
        for name in names:
            path = root / folder / name
            if not path.is_file():
                raise DataError(f"{package} should hold {folder}/{name} and does not; reinstall that package.")
            files.append(path)
    return sorted(files, key=lambda path: path.stem)


def _crops(region: Image.Image, count: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """`count` random square crops of one region as uint8 [count, size, size, 3]."""
    width, height = region.size
    longest = min(CROP_SIDES[1], width, height)
    sides = generator.integers(CROP_SIDES[0], longest, size=count, endpoint=True)
    lefts = generator.integers(0, width - sides, endpoint=True)
    tops = generator.integers(0, height - sides, endpoint=True)
    crops = np.empty((count, size, size, 3), dtype=np.uint8)
    for i, (left, top, side) in enumerate(zip(lefts.tolist(), tops.tolist(), sides.tolist(), strict=True)):
        crop = region.crop((left, top, left + side, top + side))
        crops[i] = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
    return crops


def _shuffled(per_class: list[np.ndarray], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(per_class), dtype=np.int64), [len(crops) for crops in per_class])
    order = generator.permutation(len(labels))
    return np.concatenate(per_class)[order], labels[order]
