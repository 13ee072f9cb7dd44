"""`python -m benchmarks [--quick] [NAME …] [--json FILE]`: measure, and say which goals are reached.

Every benchmark is a module of this folder with `run(quick) -> rows`; each runs in a process of its own with one
thread. A row is {"name", "ours", "reference", "ratio", "unit", "detail"}, and `ratio` above one means that ours is
faster. Rows for which `goals.py` has a goal say whether it is reached; --quick takes smaller sizes, for which the goals
are not meant.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.goals import goal_of

FOLDER = Path(__file__).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 if a benchmark failed."""
    asked = parse(arguments)
    machine = hardware()
    print("  ".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    results: dict[str, list[Row]] = {}
    failed: list[str] = []
    for name in asked.names:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            results[name] = in_new_process(name, asked.quick)
        except subprocess.CalledProcessError as error:
            failed.append(f"{name} ended with status {error.returncode}")
    rows = [row | judged(row["name"], row["ratio"], asked.quick) for rows in results.values() for row in rows]
    print(table(rows))
    for sentence in failed:
        print(sentence, file=sys.stderr)
    if asked.json:
        record = {"machine": machine, "quick": asked.quick, "rows": rows, "failed": failed}
        asked.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return int(bool(failed))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Arguments; an unknown name ends the program with the list of those there are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios measured in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known())} (default: all)")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, seconds instead of minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and machine there as well")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if name not in known()]
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(known())}")
    asked.names = asked.names or known()
    return asked


def known() -> list[str]:
    """Names of the benchmarks."""
    helpers = {"__init__", "__main__", "goals", "timing"}
    return sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in helpers)


def in_new_process(name: str, quick: bool) -> list[Row]:
    """Rows of one benchmark, whose output goes to standard error; CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        code = "import sys; from benchmarks.__main__ import write_rows; write_rows(*sys.argv[1:])"
        command = [sys.executable, "-c", code, name, str(int(quick)), str(out)]
        subprocess.run(command, check=True, cwd=FOLDER.parent, env=os.environ | ONE_THREAD, stdout=sys.stderr)
        return json.loads(out.read_text())


def write_rows(name: str, quick: str, out: str) -> None:
    """Run one benchmark here and leave its rows in a file."""
    rows = importlib.import_module(f"benchmarks.{name}").run(quick == "1")
    Path(out).write_text(json.dumps(rows))


def judged(name: str, ratio: float, quick: bool) -> Row:
    """The goal of a row and what came of it; empty where there is none."""
    goal = goal_of(name)
    if goal is None:
        return {"goal": None, "verdict": ""}
    return {"goal": goal, "verdict": "quick" if quick else "reached" if ratio >= goal else "MISSED"}


def table(rows: list[Row]) -> str:
    """All rows as text, a line each and its detail below."""
    width = max([len(row["name"]) for row in rows], default=0)
    lines = [f"{'':{width}}  {'ours':>10} {'reference':>10}  {'':14} {'ratio':>7} {'goal':>6}"]
    for row in rows:
        goal = f"{row['goal']:g}" if row["goal"] else ""
        numbers = f"{figure(row['ours']):>10} {figure(row['reference']):>10}  {row['unit']:14} {row['ratio']:7.2f}"
        lines.append(f"{row['name']:{width}}  {numbers} {goal:>6} {row['verdict']}".rstrip())
        lines.append(f"    {row['detail']}")
    return "\n".join(lines)


def figure(value: float) -> str:
    """Four significant digits, no exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" if value >= 1e-3 else f"{value:.6f}"


def hardware() -> dict[str, str]:
    """Processor, its number of cores, torch, Python and the commit measured."""
    import torch

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processor": f"{processor()} × {os.cpu_count()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
    }


def processor() -> str:
    """Its model, as the kernel tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
