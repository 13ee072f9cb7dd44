"""`python -m benchmarks.claims NAME… [--size cpu|quick|full] [--seeds 0,1,2] [--out DIR] [--data DIR] [--json FILE]`.

NAME is a claim's name or number, `a` (those that fit an hour on two cores), `all`, or `table1`; without one, the table of
contents. The table of results goes to standard output as Markdown, progress to standard error. A call that was stopped goes
on where it was when it is made again, and finished runs are only read: the same call prints the table anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims import contents, runner, table, table1
from benchmarks.claims.sizes import SIZES
from unlabeled import progress
from unlabeled.errors import Interrupted, UnlabeledError
from unlabeled.writing import require_writable

CHECKOUT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 where something is missing, 130 where it was stopped."""
    asked = parse(arguments)
    if not asked.names:
        print(listing())
        return 0
    bench = runner.Bench(asked.out, asked.data, asked.size, asked.seeds, cached_only=asked.cached)
    try:
        if asked.json:
            require_writable(asked.json)
        whole_table = "table1" in asked.names
        claims = contents.chosen([name for name in asked.names if name != "table1"], bench.size)
        if not asked.cached:
            runner.run(bench, [*claims, *([table1.table1(bench.size)] if whole_table else [])], progress.say)
        record = report(
            bench, claims, whole_table, command=["python", "-m", "benchmarks.claims", *(arguments or sys.argv[1:])]
        )
        if asked.json:
            asked.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    except Interrupted:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 130
    except UnlabeledError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Arguments; a wrong one ends the program with a sentence."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description="The papers' claims, measured.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="claims by name or number, `a`, `all` or `table1`")
    parser.add_argument(
        "--size", choices=list(SIZES), default="cpu", help="how large the experiments are (default: cpu)"
    )
    parser.add_argument("--seeds", type=_seeds, default=(0, 1, 2), help="comma-separated (default: 0,1,2)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/claims"), help="folder of the runs (default: runs/claims)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=CHECKOUT.parent / "shared" / "data" / "cifar10",
        help="CIFAR-10: cifar-10-python.tar.gz or its folder, class folders in train/ and test/, or tiles with labels.npz",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write scores, verdicts and hardware there as well")
    parser.add_argument("--cached", action="store_true", help="train nothing: the table of what is finished")
    return parser.parse_args(arguments)


def listing() -> str:
    """The table of contents."""
    claims = [make(SIZES["full"]) for make in contents.CLAIMS]
    lines = [
        f"{claim.number:3d}{' a' if claim.number in contents.ON_CPU else '  '} {claim.name:20} {claim.sentence}"
        for claim in claims
    ]
    return "\n".join(
        [*lines, "     table1               Wu et al. 2018, table 1: six rows on CIFAR-10", "", "a: on two cores"]
    )


def report(bench: runner.Bench, claims: Sequence[Any], whole_table: bool, command: Sequence[str]) -> dict[str, Any]:
    """Print what came of it; the same as a record."""
    results = [table.result(claim, bench.scores(claim), bench.size_name != "quick") for claim in claims]
    facts = {
        "command": " ".join(command),
        "seeds": ", ".join(map(str, bench.seeds)),
        "size": bench.size.sentence(),
        **bench.machines(claims),
    }
    record: dict[str, Any] = {"facts": facts, "claims": results}
    if claims:
        facts["runs finished"] = bench.finished(claims)
        took = {kind: progress.duration(seconds) for kind, seconds in bench.times(claims).items()}
        facts["training and scoring, all runs together"] = f"{took['wall']}, processor time {took['processor']}"
        print(table.markdown(results, facts))
    if whole_table:
        rows = table1.table1(bench.size)
        values, minutes = bench.scores(rows), bench.minutes(rows)
        print(table1.markdown(values, minutes, bench.size))
        record["table1"] = {"scores": values, "minutes": minutes}
    return record


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"seeds are whole numbers separated by commas, got '{text}'") from None
    if any(seed < 0 for seed in seeds):
        raise argparse.ArgumentTypeError(f"seeds are 0 or more, got '{text}'")
    return seeds


if __name__ == "__main__":
    sys.exit(main())
