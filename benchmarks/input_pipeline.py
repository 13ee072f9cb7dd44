"""Images per second from files to training views: ours against PIL and torchvision called once per image.

224 px: JPEG files of about 500×375 and of 4000×3000, RandomResizedCrop and flip. The reference is the released DeepCluster pipeline
(decode with PIL, torchvision transforms, normalised float tensor, stacked to a batch). Ours twice: the first epoch,
which decodes everything into the store and then cuts views from it, and every later epoch, which only cuts. Ours
stays uint8, because the network's stem normalises. Large files are decoded at a half, quarter or eighth, and the
detail says how far the stored pixels are from those of a full decode; it also says what threads give in wall time.
32 px: crop, the full colour jitter, grey and flip, per image with PIL against whole batches.
One thread, process CPU time, ours and the reference in turn in one process; the best of the turns counts for both.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unlabeled.data.augment import Views
from unlabeled.data.decode import decode, examine
from unlabeled.data.loading import Loader
from unlabeled.data.resize import reduce
from unlabeled.data.sources import open_source
from unlabeled.data.store import available_cores, open_store

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CUT = Views(224, 256, crop_area=(0.08, 1.0))
JITTERED = Views(32, 32, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, grey=0.2)


def run(quick: bool) -> list[dict[str, Any]]:
    """Rows of name, ours, reference (images per second and core), ratio, unit and detail."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            small, large = Path(folder) / "small", Path(folder) / "large"
            rows = _jpeg(small, (375, 500), 96 if quick else 256, 2 if quick else 5)
            rows += _jpeg(large, (3000, 4000), 2 if quick else 6, 2 if quick else 3)[:1]
            return [*rows, _small(quick)]
    finally:
        torch.set_num_threads(threads)


def _jpeg(folder: Path, shape: tuple[int, int], count: int, turns: int) -> list[dict[str, Any]]:
    files = _write_photographs(folder, count, *shape)
    order = torch.arange(count)

    def reference() -> None:
        views = [_torchvision_224(file) for file in files]
        for start in range(0, count, 32):
            torch.stack(views[start : start + 32])

    def first_epoch(workers: int = 1) -> None:
        store = open_store(open_source(folder), short_side=256, cache=None, workers=workers)
        _consume(Loader(store, CUT, device="cpu", seed=0), order, 0)

    cached = Loader(open_store(open_source(folder), short_side=256, cache=None), CUT, device="cpu", seed=0)
    epochs = iter(range(1, 1000))
    theirs, first, later = _interleaved(
        [reference, first_epoch, lambda: _consume(cached, order, next(epochs))], turns, count
    )
    begun = time.perf_counter()
    first_epoch(cores := available_cores())
    wall = count / (time.perf_counter() - begun)
    kind = "12-megapixel files, " if shape[0] >= 3000 else ""
    detail = f"{count} JPEG files of {shape[1]}×{shape[0]}, RandomResizedCrop 224 + flip, 1 thread, best of {turns}"
    more = f"; {wall:.0f} img/s wall with {cores} threads; {_difference(files[0])}"
    return [
        _row(f"224 px, {kind}first epoch (decode, store, crop, flip)", first, theirs, detail + more),
        _row("224 px, cached (crop, flip)", later, theirs, detail),
    ]


def _difference(file: Path) -> str:
    """How far the store's pixels are from those of a full decode."""
    content = file.read_bytes()
    expected = reduce(decode(content), 256).astype(int)
    off = np.abs(reduce(examine(content, short_side=256).pixels, 256) - expected)
    return f"pixels off by {off.mean():.2f} of 255 on average, {off.max()} at most"


def _small(quick: bool) -> dict[str, Any]:
    count, turns = (512, 2) if quick else (4096, 5)
    images = np.stack([np.asarray(_photograph(32, 32, seed)) for seed in range(count)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, images)
        store = open_store(open_source(path), short_side=32, cache=None, workers=1)
    loader = Loader(store, JITTERED, device="cpu", seed=0)
    transform = _torchvision_32()
    some = range(min(count, 512))

    def reference() -> None:
        torch.stack([transform(Image.fromarray(images[i])) for i in some])

    epochs = iter(range(1000))
    order = torch.arange(count)
    (theirs,) = _interleaved([reference], 1, len(some))
    best = 0.0
    for _ in range(turns):
        theirs = max(theirs, _interleaved([reference], 1, len(some))[0])
        best = max(best, _interleaved([lambda: _consume(loader, order, next(epochs))], 1, count)[0])
    detail = (
        f"{count} images, crop .2-1, jitter .4 ×4 in random order with exact HSV, grey .2, flip; 1 thread, CPU time"
    )
    return _row("32 px, full colour jitter", best, theirs, detail)


def _consume(loader: Loader, order: torch.Tensor, epoch: int) -> None:
    batch = 32 if loader.views.image_size > 100 else 128
    for _ in loader.train_batches(order, epoch, min(batch, len(order))):
        pass


def _interleaved(works: list[Callable[[], None]], turns: int, count: int) -> list[float]:
    """Best images per CPU second of each, taking turns so that other load on the machine meets all alike."""
    best = [0.0] * len(works)
    for _ in range(turns):
        for i, work in enumerate(works):
            begun = time.process_time()
            work()
            best[i] = max(best[i], count / (time.process_time() - begun))
    return best


def _row(name: str, ours: float, reference: float, detail: str) -> dict[str, Any]:
    return {
        "name": name,
        "ours": ours,
        "reference": reference,
        "ratio": ours / reference,
        "unit": "img/s per core",
        "detail": detail,
    }


def _torchvision_224(file: Path) -> torch.Tensor:
    import torchvision.transforms as T

    transform = T.Compose(
        [T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)],
    )
    with file.open("rb") as stream:
        return transform(Image.open(stream).convert("RGB"))


def _torchvision_32() -> Callable[[Image.Image], torch.Tensor]:
    import torchvision.transforms as T

    return T.Compose(
        [
            T.RandomResizedCrop(32, scale=(0.2, 1.0)),
            T.ColorJitter(0.4, 0.4, 0.4, 0.4),
            T.RandomGrayscale(0.2),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )


def _photograph(height: int, width: int, seed: int) -> Image.Image:
    """Smooth shapes with noise, which compress about as photographs do."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height))
    noise = random.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def _write_photographs(folder: Path, count: int, height: int, width: int) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{i:04d}.jpg" for i in range(count)]
    for i, file in enumerate(files):
        buffer = io.BytesIO()
        _photograph(height, width, i).save(buffer, "JPEG", quality=92)
        file.write_bytes(buffer.getvalue())
    return files
