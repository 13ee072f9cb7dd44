"""Scores of one protocol with the convolutions frozen and with the whole network fine-tuned, kept beside each other.

What a run stores of a protocol is replaced when it is scored again; the gain of fine-tuning (spec A26) needs both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlabeled.run import Run


def by_layers(run: Run, protocol: str, train: str, split: str, scores: dict[str, Any], key: str) -> dict[str, Any]:
    """`scores` with a table `layers`: by what was trained, "fc" or "all", the number under `key` and the untrained one.

    Rows of an earlier scoring are kept where it was of the same split and as many pictures: others cannot be compared.
    """
    same = {"split": split, "train_images": scores["train_images"], "test_images": scores["test_images"]}
    row = {"score": scores[key], "untrained": scores["untrained"], **same}
    before = run.scores.get(protocol, {}).get("layers", {})
    kept = {name: old for name, old in before.items() if all(old.get(fact) == value for fact, value in same.items())}
    return scores | {"layers": kept | {train: row}}
