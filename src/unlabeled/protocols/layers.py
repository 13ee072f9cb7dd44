"""Scores of one protocol with the convolutions frozen and with the whole network fine-tuned, kept beside each other.

What a run stores of a protocol is replaced when it is scored again; the gain of fine-tuning (spec A26) needs both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unlabeled import progress

if TYPE_CHECKING:
    from unlabeled.run import Run

CLEARLY = 0.01
"""What a score must have beyond one that nothing was learned for."""


def by_layers(
    run: Run, protocol: str, train: str, split: str, scores: dict[str, Any], key: str, **settings: Any
) -> dict[str, Any]:
    """`scores` with a table `layers`: by what was trained, "fc" or "all", the number under `key` and the untrained one.

    Rows of an earlier scoring are kept where it was of the same split, as many pictures and the same `settings` (steps,
    detector and the like): others cannot be compared.
    """
    same = {"split": split, "train_images": scores["train_images"], "test_images": scores["test_images"], **settings}
    row = {"score": scores[key], "untrained": scores["untrained"], **same}
    before = run.scores.get(protocol, {}).get("layers", {})
    kept = {name: old for name, old in before.items() if all(old.get(fact) == value for fact, value in same.items())}
    return scores | {"layers": kept | {train: row}}


def nothing_learned(scores: dict[str, Any], key: str, nothing: float) -> dict[str, str]:
    """A sentence where neither network is clearly above what an answer that has learned nothing scores; it is also said."""
    best = max(scores[key], scores["untrained"])
    if best > nothing + CLEARLY:
        return {}
    sentence = (
        f"Neither network has learned the task in {scores['steps']:,} steps: {100 * scores[key]:.1f} and "
        f"{100 * scores['untrained']:.1f} %, where an answer that learned nothing gets {100 * nothing:.1f} %; their difference "
        "says nothing. Leave out --quick, or give more --steps."
    )
    progress.say(f"Note: {sentence}")
    return {"nothing_learned": sentence}
