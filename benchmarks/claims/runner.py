"""Trains what a claim compares, each configuration and seed as an ordinary run, and scores it. Nothing is done twice.

Under OUT/SIZE: `images/`, the arrays; `IMAGES/BASE/CHANGES/seed-S/`, the runs, each with `seed-S.json` beside it, the scores
so far. Equal configurations of different claims have the same folder. A run that was stopped is resumed, one that is
finished is only scored, and scores that are there are read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import unlabeled
from benchmarks.__main__ import hardware
from benchmarks.claims.claim import Arm, Claim
from benchmarks.claims.imagesets import ImageSets
from benchmarks.claims.measures import MEASURES, Trained
from benchmarks.claims.sizes import SIZES, Size, SizeName, settings
from unlabeled import progress
from unlabeled.errors import RunError
from unlabeled.run import Run
from unlabeled.runs.folder import RunFolder
from unlabeled.writing import replacing

Scores = dict[str, dict[str, list[float]]]
"""Configuration -> score -> a value for each seed, in the order of the seeds."""


@dataclass
class Bench:
    """Where the work is, how large it is, and on what."""

    out: Path
    data: Path
    size_name: SizeName
    seeds: Sequence[int]
    cached_only: bool = False
    """Whether to read what is there and train nothing."""
    _sets: ImageSets | None = field(default=None, repr=False)

    @property
    def size(self) -> Size:
        """Numbers of this size."""
        return SIZES[self.size_name]

    @property
    def folder(self) -> Path:
        """Where runs of this size are."""
        return self.out / self.size_name

    @property
    def sets(self) -> ImageSets:
        """The images, made when first asked for."""
        if self._sets is None:
            self._sets = ImageSets(self.folder / "images", self.data, self.size)
        return self._sets

    def work(self, claims: Sequence[Claim]) -> list[tuple[Arm, int, tuple[str, ...]]]:
        """Every (configuration, seed, measures) of these claims once, seed by seed, so that all claims have an answer early."""
        wanted: dict[str, tuple[Arm, set[str]]] = {}
        for claim in claims:
            for arm in claim.arms.values():
                wanted.setdefault(arm.slug(), (arm, set()))[1].update(claim.measures)
        return [(arm, seed, tuple(sorted(names))) for seed in self.seeds for arm, names in wanted.values()]

    def scores(self, claim: Claim) -> Scores:
        """All scores of a claim; of the seeds that are there where `cached_only`, else of all, training what is missing."""
        result: Scores = {}
        for name, arm in claim.arms.items():
            found = [self.score(arm, seed, claim.measures) for seed in self.seeds]
            kept = [scores for scores in found if scores is not None]
            keys = sorted(set[str]().union(*kept))
            result[name] = {key: [scores[key] for scores in kept] for key in keys if all(key in s for s in kept)}
        for name, compute in claim.computed.items():
            each = [compute(seed) for seed in self.seeds]
            result[name] = {key: [scores[key] for scores in each] for key in each[0]}
        return result

    def score(self, arm: Arm, seed: int, measures: Sequence[str]) -> dict[str, float] | None:
        """Scores of one run, trained if need be; None if it is not there and `cached_only`."""
        record = self._read(arm, seed)
        missing = [name for name in measures if name not in record["measured"]]
        if missing and self.cached_only:
            return None
        if missing:
            begun, used = time.monotonic(), time.process_time()
            trained = Trained(self._trained(arm, seed), self.sets[arm.images], self.size)
            for name in missing:
                record["scores"] |= MEASURES[name](trained)
                record["measured"].append(name)
            history = trained.run.history
            record["train_seconds"] = sum(epoch["seconds"] for epoch in history)
            record["loss"] = [epoch["loss"] for epoch in history]
            record["seconds"] += time.monotonic() - begun
            # On a machine with other work the more telling of the two.
            record["cpu_seconds"] += time.process_time() - used
            record["machine"] = machine()
            self._write(arm, seed, record)
        return record["scores"]

    def times(self, claims: Sequence[Claim]) -> dict[str, float]:
        """Seconds of training and scoring behind these claims, `wall` and `processor`, shared runs counted once."""
        records = [self._read(arm, seed) for arm, seed, _ in self.work(claims)]
        return {
            "wall": sum(record["seconds"] for record in records),
            "processor": sum(record["cpu_seconds"] for record in records),
        }

    def finished(self, claims: Sequence[Claim]) -> str:
        """How many of the runs behind these claims are scored."""
        work = self.work(claims)
        done = [set(names) <= set(self._read(arm, seed)["measured"]) for arm, seed, names in work]
        return f"{sum(done)} of {len(work)}"

    def minutes(self, claim: Claim) -> dict[str, float]:
        """Training time of the first seed that is finished, by configuration."""
        times = {name: self._seconds(arm) for name, arm in claim.arms.items()}
        return {name: seconds / 60 for name, seconds in times.items() if seconds is not None}

    def machines(self, claims: Sequence[Claim]) -> dict[str, str]:
        """Where and with what the runs behind these claims were made; several where they differ."""
        found: dict[str, list[str]] = {}
        for claim in claims:
            for arm in claim.arms.values():
                for seed in self.seeds:
                    for key, value in self._read(arm, seed).get("machine", {}).items():
                        known = found.setdefault(key, [])
                        known.extend([value] if value not in known else [])
        return {key: ", ".join(values) for key, values in found.items()}

    def _seconds(self, arm: Arm) -> float | None:
        records = (self._read(arm, seed) for seed in self.seeds)
        return next((record["train_seconds"] for record in records if "train_seconds" in record), None)

    def config(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Arguments of `unlabeled.train` for this run."""
        return settings(arm.base, self.size) | dict(arm.changes) | {"seed": seed}

    def place(self, arm: Arm, seed: int) -> Path:
        """Folder of a run."""
        return self.folder / arm.slug() / f"seed-{seed}"

    def _trained(self, arm: Arm, seed: int) -> Run:
        place, asked = self.place(arm, seed), self.config(arm, seed)
        folder = RunFolder(place)
        if folder.exists and folder.features.is_file():
            return unlabeled.load(place)
        # Before the run, so that one that was stopped is never taken for one with other settings.
        self._write(arm, seed, self._read(arm, seed))
        data = self.sets[arm.images].train
        return unlabeled.train(data, place, cache=self.folder / "cache", if_exists="resume", **asked)

    def _read(self, arm: Arm, seed: int) -> dict[str, Any]:
        path = self.place(arm, seed).with_suffix(".json")
        asked = json.loads(json.dumps(self.config(arm, seed)))
        if not path.is_file():
            return {"asked": asked, "scores": {}, "measured": [], "seconds": 0.0, "cpu_seconds": 0.0}
        record = json.loads(path.read_text())
        if record["asked"] != asked:
            differing = sorted(key for key in asked | record["asked"] if asked.get(key) != record["asked"].get(key))
            raise RunError(
                f"{path} was made with other settings ({', '.join(differing)}); give another --out, or remove that file and the "
                "folder beside it."
            )
        return record

    def _write(self, arm: Arm, seed: int, record: Mapping[str, Any]) -> None:
        with replacing(self.place(arm, seed).with_suffix(".json")) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n")


def run(bench: Bench, claims: Sequence[Claim], say: Callable[[str], None]) -> None:
    """Train and score everything these claims need, saying after each run how it did and how long the rest will take."""
    work = bench.work(claims)
    begun, done = time.monotonic(), 0
    for number, (arm, seed, measures) in enumerate(work, start=1):
        now, was_there = time.monotonic(), bench.place(arm, seed).with_suffix(".json").is_file()
        scores = bench.score(arm, seed, measures)
        assert scores is not None
        took = time.monotonic() - now
        if was_there and took < 1:  # read, not made
            continue
        done += 1
        left = (time.monotonic() - begun) / done * (len(work) - number)
        first = ", ".join(f"{name} {value:.3f}" for name, value in list(scores.items())[:3])
        took, rest = progress.duration(took), progress.duration(left)
        say(f"{number} of {len(work)}  {arm.slug()} seed {seed}: {first} ({took}), about {rest} to go")


def machine() -> dict[str, str]:
    """Processor or GPU, versions, commit."""
    found = hardware()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
