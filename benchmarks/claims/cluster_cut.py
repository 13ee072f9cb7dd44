"""Clusters whose number is chosen after training, against k-means at the same number, on five labeled sets.

    python -m benchmarks.claims.cluster_cut [SET ...] [--epochs 8]

Needs the sets of `../shared/data`. Each set is trained without labels (recipe `default`, few epochs); its own clusters are
then merged to as many as there are kinds. Printed for each: normalized mutual information with the kinds and the share of
the largest cluster, of the merged clusters and of k-means on the unit features at the same number (mean of three seeds).
"""

from __future__ import annotations

import argparse
import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import unlabeled
from unlabeled.cluster.kmeans import kmeans
from unlabeled.metrics import nmi
from unlabeled.runs.index import Catalogue

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
IMAGES = 2000
"""Images taken of each set, evenly spaced."""
SEEDS = 3

Labeled = tuple[np.ndarray, np.ndarray]


def _evenly(images: list[np.ndarray], labels: list[int]) -> Labeled:
    rows = np.unique(np.linspace(0, len(images) - 1, min(IMAGES, len(images))).round().astype(int))
    return np.stack([images[row] for row in rows]), np.array(labels)[rows]


def _squares(archive: Path, kind: Callable[[str], str | None], side: int) -> Labeled:
    images, kinds = [], []
    with zipfile.ZipFile(archive) as file:
        for name in sorted(file.namelist()):
            label = kind(name)
            if label is not None:
                picture = (
                    Image.open(io.BytesIO(file.read(name))).convert("RGB").resize((side, side), Image.Resampling.BOX)
                )
                images.append(np.asarray(picture))
                kinds.append(label)
    names = sorted(set(kinds))
    return _evenly(images, [names.index(label) for label in kinds])


def _cifar10() -> Labeled:
    sheet = np.asarray(Image.open(SHARED / "cifar10" / "train_0.webp").convert("RGB"))
    images = sheet.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    labels = np.load(SHARED / "cifar10" / "labels.npz")["train_0"]
    return _evenly(list(images), labels.tolist())


def _mnist() -> Labeled:
    with np.load(SHARED / "mnist-8k" / "mnist-8k.npz") as file:
        return _evenly(list(file["x_train"][..., None].repeat(3, 3)), file["y_train"].tolist())


def _caltech() -> Labeled:
    def kind(name: str) -> str | None:
        label = name.split("/")[1] if name.endswith(".jpg") else None
        return label if label and label[0].lower() < "d" else None

    return _squares(SHARED / "caltech101" / "caltech101-128.zip", kind, 48)


def _tiny() -> Labeled:
    return _squares(
        SHARED / "tiny-imagenet-10" / "tiny-imagenet-10.zip",
        lambda name: name.split("/")[2] if "/train/" in name and name.endswith(".JPEG") else None,
        48,
    )


def _coil() -> Labeled:
    return _squares(
        SHARED / "coil20-retrieval" / "coil20-retrieval.zip",
        lambda name: Path(name).name[:5] if name.endswith(".png") else None,
        48,
    )


SETS: dict[str, Callable[[], Labeled]] = {
    "cifar10": _cifar10,
    "mnist": _mnist,
    "caltech101 a-c": _caltech,
    "tiny-imagenet-10": _tiny,
    "coil20": _coil,
}


def compare(catalogue: Catalogue, labels: np.ndarray) -> dict[str, float]:
    """Agreement with the kinds and the largest share, of the merged clusters and of k-means on the unit features."""
    kinds = len(np.unique(labels))
    cut = catalogue.merged(kinds).clusters.numpy()
    direct = [kmeans(catalogue.features, kinds, seed=seed).labels.numpy() for seed in range(SEEDS)]
    return {
        "kinds": kinds,
        "cut_nmi": nmi(cut, labels),
        "cut_largest": largest(cut),
        "kmeans_nmi": float(np.mean([nmi(found, labels) for found in direct])),
        "kmeans_largest": float(np.mean([largest(found) for found in direct])),
    }


def largest(clusters: np.ndarray) -> float:
    """Share of the images in the largest cluster."""
    return float(np.bincount(clusters).max() / len(clusters))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--keep", type=Path, help="folder for the runs, used again if they are there")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        print(f"{'set':18} {'kinds':>5} {'cut NMI':>8} {'largest':>8} {'k-means':>8} {'largest':>8}")
        for name in arguments.sets or SETS:
            images, labels = SETS[name]()
            run = folder / name.replace(" ", "-")
            if not (run / "features.safetensors").is_file():
                run.parent.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{run.name}.npy", images)
                unlabeled.train(
                    folder / f"{run.name}.npy",
                    run,
                    epochs=arguments.epochs,
                    cache=folder / "cache",
                    if_exists="replace",
                )
            row = compare(unlabeled.load(run).catalogue, labels)
            print(
                f"{name:18} {row['kinds']:5.0f} {row['cut_nmi']:8.3f} {row['cut_largest']:8.2f} {row['kmeans_nmi']:8.3f} "
                f"{row['kmeans_largest']:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
