"""What a kNN evaluation takes beside the features: half their size for rounded rows, and a constant."""

from __future__ import annotations

import subprocess
import sys

import torch

from unlabeled.protocols.inputs import take

SCRIPT = """
import resource, torch
from unlabeled.evaluation.knn import KnnProtocol

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(2)
random = torch.Generator().manual_seed(0)
labels = torch.arange(600_000) % 10
train = torch.empty(len(labels), 256)
centres = 8 * torch.randn(10, 256, generator=random)
for part in torch.arange(len(labels)).split(4096):
    train[part] = centres[labels[part]] + torch.randn(len(part), 256, generator=random)
test = train[:64] + 1
small = KnnProtocol(train[:50_000], labels[:50_000], test, labels[:64], k=20)
dict(small.run())  # what the program itself takes is there from now on
before = peak()
assert dict(KnnProtocol(train, labels, test, labels[:64], k=20).run())["knn_top1"] == 1
print(train.nbytes / 2**20, peak() - before)
"""


def test_neighbours_take_half_the_table_more_and_a_constant() -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    table, extra = map(float, told.split())
    assert table > 580
    # One image of 1.28 million with 4,096 numbers: 21 GB of features and 10.5 GB of rounded rows, within 32 GB.
    # The constant is what blocks of scores take, more beside other work; a second table of unit rows would be 586 MB more.
    assert extra < 0.5 * table + 550


def test_rows_are_taken_within_their_own_memory() -> None:
    rows = torch.randn(20_000, 3)
    index = torch.randperm(20_000)[:15_000].sort().values
    want, place = rows[index].clone(), rows.data_ptr()
    found = take(rows, index)
    assert torch.equal(found, want)
    assert found.data_ptr() == place
    assert len(take(torch.zeros(5, 2), torch.tensor([], dtype=torch.int64))) == 0
