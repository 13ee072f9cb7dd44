"""Few labels on two gloo processes: the same draws and the scores of one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from few_labels import contest
from ranks import script_on_two_ranks
from unlabeled.evaluation.fine_tuning import FineTuning
from unlabeled.evaluation.low_shot import LowShotProtocol
from unlabeled.evaluation.result_cache import Partial

SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from few_labels import contest
from unlabeled.distributed import is_main, process_group
from unlabeled.evaluation.fine_tuning import FineTuning
from unlabeled.evaluation.low_shot import LowShotProtocol
from unlabeled.evaluation.result_cache import Partial

folder = Path(sys.argv[1])
with process_group("cpu"):
    made = replace(contest(folder, write=False), partial=Partial(folder / "parts"))
    how = FineTuning(batch_size=16, lr=0.003)
    found = dict(LowShotProtocol(made, [1, 4], 2, (0.003, 0.03), steps=8, how=how).run())
    if is_main():
        (folder / "two.json").write_text(json.dumps(found))
"""


def test_two_processes_give_what_one_gives(tmp_path: Path):
    torch.set_num_threads(1)
    made = replace(contest(tmp_path), partial=Partial(tmp_path / "alone"))
    how = FineTuning(batch_size=16, lr=0.003)
    one = dict(LowShotProtocol(made, [1, 4], 2, (0.003, 0.03), steps=8, how=how).run())

    script_on_two_ranks(tmp_path, SCRIPT, tmp_path, Path(__file__).parent.parent)
    two = json.loads((tmp_path / "two.json").read_text())
    for n in ("1", "4"):
        assert two["spread"][n]["lr"] == one["spread"][n]["lr"]  # chosen alike
        for key, value in one["shots"][n].items():
            assert two["shots"][n][key] == pytest.approx(value, abs=1e-6), (n, key)
    # Both wrote the same parts: two draws of two networks for each n, and the two choices where n is 4.
    names = [sorted(file.name for file in (tmp_path / folder).iterdir()) for folder in ("alone", "parts")]
    assert names[0] == names[1] and len(names[0]) == 10
