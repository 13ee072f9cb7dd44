"""kNN on the memory bank of instance discrimination: what its released code scores, without embedding the training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from unlabeled import checkpoint
from unlabeled.data.labels import read_labels
from unlabeled.errors import DataError, RunError
from unlabeled.evaluation.knn import KnnProtocol
from unlabeled.methods.base import fixed_subset
from unlabeled.models.heads import l2_head
from unlabeled.protocols.labelled import QUICK_TEST, labelled, require_classes
from unlabeled.protocols.neighbors import check_neighbors
from unlabeled.protocols.request import Request

if TYPE_CHECKING:
    from unlabeled.run import Run

BANK = "method.memory.bank"
HEAD = "method.head."


def knn_bank(run: Run, asked: Request, *, neighbors: int = 200) -> dict[str, float]:
    """Weighted kNN (Wu et al. 2018, section 3.4) of `--test` images among the rows of the memory bank.

    DATA are the images the bank was trained on: only their names and labels are read, and row i belongs to image i in order of
    names. Paper numbers: ImageNet ResNet-18 41.0 %, ResNet-50 46.5 % (table 2), CIFAR-10 80.8 % (table 1).

    Keys: `knn_bank`, `knn_top5` (of more than five classes), `nearest`, `chance`, `neighbors`, `temperature`, `train_images`,
    `test_images`. An untrained network has no bank.

    Raises:
        RunError: the run has no memory bank.
        DataError: no test images, or another number of images than the bank has rows.
    """
    check_neighbors(neighbors)
    bank, head = _memory(run)
    if asked.test is None:
        raise DataError("knn-bank needs --test: labelled images that are not among those of the memory bank.")
    source = run.record.source_of(asked.data)
    ids = torch.from_numpy(read_labels(source, asked.labels).ids)
    # Images outside the subset have no row, where there is one.
    subset, images = run.config.subset, run.record.count if run.config.subset else len(bank)
    if len(ids) != images:
        # Files that cannot be read have none either.
        ids = ids[torch.as_tensor(run.record.open(source).index_in_source)]
    if subset and len(ids) == images:
        ids = ids[fixed_subset(images, subset, run.config.seed)]
    if len(ids) != len(bank):
        raise DataError(
            f"the memory bank has {len(bank):,} rows and {asked.data} {len(ids):,} images: give the images it was trained on."
        )
    require_classes(ids.numpy(), asked.data, asked.labels)
    most = QUICK_TEST if asked.quick else None
    store, wanted, _ = labelled(run, asked.test, asked.labels, like=asked.data, most=most)
    features = run.features_of(store, run.backbone, "test images")
    with torch.no_grad():
        outputs = torch.cat([head(rows) for rows in features.split(8192)])
    voters = min(neighbors, len(bank))
    protocol = KnnProtocol(bank, ids, outputs, torch.from_numpy(wanted), k=voters, temperature=run.config.temperature)
    found = dict(protocol.run())
    return {
        "knn_bank": found["knn_top1"],
        **{key: found[key] for key in ("knn_top5",) if key in found},
        "nearest": found["nearest_top1"],
        "chance": found["knn_chance"],
        "neighbors": voters,
        "temperature": run.config.temperature,
        "train_images": len(bank),
        "test_images": len(store),
    }


def _memory(run: Run) -> tuple[torch.Tensor, torch.nn.Module]:
    """The bank [N, D] and the head that makes outputs comparable with its rows."""
    found = checkpoint.load(run.folder.checkpoints)
    tensors = found.tensors if found else {}
    if BANK not in tensors:
        raise RunError(
            f"{run.path} has no memory bank (its method is {run.config.method}): knn-bank needs a run of `--method instance`."
        )
    head = l2_head(run.backbone, tensors[BANK].shape[1]).eval()
    head.load_state_dict({name.removeprefix(HEAD): value for name, value in tensors.items() if name.startswith(HEAD)})
    return tensors[BANK], head
