"""Is it learning? A verdict in plain words from the numbers of each epoch.

A run that learns nothing looks busy: its loss stands at the value of guessing, its clusters have run into one, its
features have become the same for every image (the trivial solutions of the DeepCluster paper, section 3.3). Each of
these shows in numbers that cost nothing, and `diagnose` says so.

Shapes: N images, D feature dims, K clusters.

What `diagnose` reads of an epoch's record; whatever is absent is not judged:

- `epoch`: its number, from 1
- `loss`: mean training loss
- `chance_loss`: its value when nothing has been learned, ln K for a softmax over K clusters
- from `cluster_statistics`: `num_clusters`, `empty_clusters`, `singletons`, `largest_share`
- from `feature_statistics`: `feature_std`, `effective_rank`
- of a clustering all of these are repeated until the next one, which is told by one of them, `size_entropy`,
  `nmi_previous` (absent at the first) or `moved_share` being another
- `code_share`: share of the images that hold the commonest code of Noise As Targets
- `mean_distance`: their mean squared distance to their codes, between 0 and 4
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["healthy", "warming up", "uneven", "not learning", "collapsing", "unstable"]
Record = Mapping[str, Any]

PATIENCE = 5
"""Epochs the loss may stand at its chance value: a fresh head on a small set needs several."""
AT_CHANCE = 0.02
"""Distance from the chance value, as a share of it, within which nothing has been learned."""
FAR_ABOVE = 1.5
"""Times its chance value that the loss is far above it."""
# Hardly ever all the same in two clusterings; `_is_anew` tells them by these.
_OF_CLUSTERING = (
    *("num_clusters", "empty_clusters", "singletons", "largest_share", "size_entropy", "nmi_previous", "moved_share"),
    *("feature_std", "effective_rank"),
)
PROGRESS = 0.003
"""Fall of the loss over `PATIENCE` epochs, as a share of the chance value, that counts as learning after all."""


@dataclass(frozen=True)
class Verdict:
    """What the numbers say about a run so far."""

    status: Status
    """One word or two."""
    sentence: str
    """What was seen, in words; empty if there is nothing to add to the status."""
    advice: str
    """What to try, an imperative without a full stop; empty if nothing needs doing."""
    facts: tuple[str, ...] = ()
    """The numbers behind it, one clause each."""

    def line(self) -> str:
        """One line for the end of an epoch: 'healthy', or the status with what was seen and what to try."""
        return (
            self.status + (f": {self.sentence}" if self.sentence else "") + (f"; {self.advice}" if self.advice else "")
        )


def diagnose(history: Sequence[Record]) -> Verdict:
    """The verdict on a run from the records of its epochs, oldest first; see the module for the keys that are read."""
    if not history:
        return Verdict("warming up", "no epoch has ended yet", "")
    facts = _facts(history)
    for check in (_diverged, _dominated, _shared_code, _flattened, _at_chance, _rising, _settling, _uneven):
        verdict = check(history)
        if verdict is not None:
            return Verdict(verdict.status, verdict.sentence, verdict.advice, facts)
    return Verdict("healthy", "", "", facts)


def _diverged(history: Sequence[Record]) -> Verdict | None:
    since = _since(history, lambda record: not all(map(math.isfinite, _values(record, "loss", "feature_std"))))
    if since is None:
        return None
    return Verdict(
        "unstable",
        f"the loss or the features have not been finite numbers since epoch {since}",
        "try a tenth of the lr",
    )


def _dominated(history: Sequence[Record]) -> Verdict | None:
    def is_dominated(record: Record) -> bool:
        # Of three clusters one may well hold half the images, of a hundred none should.
        limit = max(0.5, min(0.95, 3 / max(record.get("num_clusters", 1), 1)))
        return record.get("num_clusters", 0) > 0 and record.get("largest_share", 0.0) >= limit

    since = _since(history, is_dominated)
    if since is None:
        return None
    return Verdict(
        "collapsing",
        f"{_percent(history[-1]['largest_share'])} of images in one cluster since epoch {since}",
        "try uniform sampling over clusters, a lower lr, or stronger augmentation",
    )


def _shared_code(history: Sequence[Record]) -> Verdict | None:
    since = _since(history, lambda record: record.get("code_share", 0.0) >= 0.5)
    if since is None:
        return None
    return Verdict(
        "collapsing",
        f"{_percent(history[-1]['code_share'])} of images share one code since epoch {since}",
        "match one to one with `--assignment permutation`",
    )


def _flattened(history: Sequence[Record]) -> Verdict | None:
    spreads = [record["feature_std"] for record in history if "feature_std" in record]
    if not spreads:
        return None
    # Untrained networks already give rather similar features to all images, so a small spread counts only if it has
    # shrunk.
    limit = max(0.01, min(0.05, max(spreads) / 4))
    since = _since(history, lambda record: record.get("feature_std", 1.0) < limit)
    if since is not None:
        seen = f"features of all images are nearly the same (spread {spreads[-1]:.2g}) since epoch {since}"
        return Verdict(
            "collapsing", seen, "try a lower lr, less weight decay, or look for blank images with `unlabeled check`"
        )
    since = _since(history, lambda record: record.get("effective_rank", math.inf) < 1.5)
    # An untrained network may well have one main direction; that is no fall.
    if since is None or _is_untrained(history):
        return None
    return Verdict(
        "collapsing",
        f"features vary along a single direction since epoch {since}",
        "try a lower lr or less weight decay",
    )


def _at_chance(history: Sequence[Record]) -> Verdict | None:
    def is_at_chance(record: Record) -> bool:
        chance = record.get("chance_loss", 0.0)
        return chance > 0 and "loss" in record and abs(record["loss"] / chance - 1) <= AT_CHANCE

    since = _since(history, is_at_chance)
    if since is None:
        return None
    stuck = [record for record in history if record["epoch"] >= since and "loss" in record]
    chance = stuck[-1]["chance_loss"]
    recent = stuck[-PATIENCE:]
    fall = recent[0]["loss"] - recent[-1]["loss"]
    if len(stuck) < PATIENCE or fall > PROGRESS * chance:
        return Verdict("warming up", f"loss {stuck[-1]['loss']:.2f}, guessing gives {chance:.2f}", "")
    return Verdict(
        "not learning",
        f"loss {stuck[-1]['loss']:.2f} has stood at the value of guessing ({chance:.2f}) since epoch {since}",
        "try a higher lr, fewer clusters, or a longer time between reassignments",
    )


def _rising(history: Sequence[Record]) -> Verdict | None:
    def is_far_above(record: Record) -> bool:
        return "chance_loss" in record and record.get("loss", 0.0) > FAR_ABOVE * max(record["chance_loss"], 0.1)

    since = _since(history, is_far_above)
    if since is None or len(history) < 2:
        return None
    before, last = history[-2:]
    loss, chance = f"{last['loss']:.2f}", f"{last['chance_loss']:.2f}"
    if is_far_above(before):
        seen = f"loss {loss} is far above that of guessing ({chance}) since epoch {since}"
    elif "loss" in before and last["loss"] > before["loss"] and not _excused(history):
        seen = f"loss {loss} is far above that of guessing ({chance}) and up from {before['loss']:.2f} the epoch before"
    else:
        return None
    return Verdict(
        "unstable",
        seen,
        # In this order: of 32 images and two steps an epoch, a tenth of the head's mended it, a tenth of the body's did not.
        "try a lower `--head-lr` first, then a lower `--lr`, or more images where an epoch has only a few steps",
    )


def _excused(history: Sequence[Record]) -> bool:
    # A fresh head lifts the loss for an epoch; where every epoch begins with one, it is no excuse.
    anew = [_is_anew(before, record) for before, record in itertools.pairwise(history)]
    return anew[-1] and not all(anew)


def _settling(history: Sequence[Record]) -> Verdict | None:
    return Verdict("warming up", "the first epochs say little", "") if len(history) < 2 else None


def _uneven(history: Sequence[Record]) -> Verdict | None:
    last = history[-1]
    total, empty, single = last.get("num_clusters", 0), last.get("empty_clusters", 0), last.get("singletons", 0)
    if total < 2 or empty + single <= 0.3 * total:
        return None
    return Verdict(
        "uneven",
        f"{empty} of {total} clusters are empty and {single} hold a single image",
        "try fewer clusters",
    )


def _facts(history: Sequence[Record]) -> tuple[str, ...]:
    losses = [record for record in history if "loss" in record]
    last = history[-1]
    facts: list[str] = []
    if losses:
        first, final = losses[0], losses[-1]
        guess = f"; guessing would give {final['chance_loss']:.2f}" if "chance_loss" in final else ""
        start, end = (
            f"{first['loss']:.2f} in epoch {first['epoch']}",
            f"{final['loss']:.2f} in epoch {final['epoch']}",
        )
        facts.append(f"the loss went from {start} to {end}{guess}")
    untrained = _is_untrained(history)
    if "num_clusters" in last:
        used, total = last["num_clusters"] - last.get("empty_clusters", 0), last["num_clusters"]
        share = f", the largest with {_percent(last['largest_share'])} of the images" if "largest_share" in last else ""
        what = (
            f"clusters were made once, before the first epoch: {used:,.0f} of {total:,.0f}"
            if untrained
            else f"in the last clustering of the training {used:,.0f} of {total:,.0f} clusters"
        )
        facts.append(f"{what} are in use{share}")
    if "nmi_previous" in last:
        facts.append(f"the last two groupings agree to {last['nmi_previous']:.2f} (NMI: 0 unrelated, 1 the same)")
    if "effective_rank" in last:
        whose = "features of the untrained network varied" if untrained else "features vary"
        facts.append(f"{whose} along about {last['effective_rank']:.0f} directions")
    return tuple(facts)


def _is_anew(before: Record, record: Record) -> bool:
    # Whether an epoch began with a clustering: records only repeat the numbers of the last one.
    return "num_clusters" in record and any(before.get(name) != record.get(name) for name in _OF_CLUSTERING)


def _is_untrained(history: Sequence[Record]) -> bool:
    # Whether the last numbers of clusters and features are still those of the clustering before the first epoch.
    last = history[-1]
    return (
        "num_clusters" in last
        and "nmi_previous" not in last
        and not any(itertools.starmap(_is_anew, itertools.pairwise(history)))
    )


def _since(history: Sequence[Record], holds: Callable[[Record], bool]) -> int | None:
    # Epoch of the first record of the unbroken row up to the last for which it holds; None if it does not hold now.
    since = None
    for record in reversed(history):
        if not holds(record):
            break
        since = record["epoch"]
    return since


def _values(record: Record, *names: str) -> list[float]:
    return [record[name] for name in names if name in record]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
