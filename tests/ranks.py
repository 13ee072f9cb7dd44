"""Two gloo processes under torchrun, for tests of what several ranks do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

VERBS = """
import sys
from unlabeled import cli

for line in open(sys.argv[1]).read().splitlines():
    try:
        cli.main(line.split())
    except SystemExit as stop:
        if stop.code:
            raise
"""


def on_two_ranks(*arguments: object, timeout: float = 600) -> str:
    """Run `python ARGUMENTS` (a script, or -m module, and what it is given) on two processes; its standard output."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [*launch, *map(str, arguments)]
    result = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=timeout)
    assert result.returncode == 0, result.stderr
    return result.stdout


def script_on_two_ranks(folder: Path, script: str, *arguments: object) -> str:
    """Run the text of a script, put into `folder`, likewise."""
    file = folder / "script.py"
    file.write_text(script)
    return on_two_ranks(file, *arguments)


def verbs_on_two_ranks(folder: Path, lines: Sequence[str]) -> str:
    """Run command lines, one start of two interpreters for all of them: starting takes longer than the work."""
    (folder / "lines").write_text("\n".join(lines))
    return script_on_two_ranks(folder, VERBS, folder / "lines")
