"""Progress a person can follow: bars with an ETA on a terminal, a line now and then in a log file.

Only the first rank prints, and everything goes to standard error, so that standard output stays free for results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Update = Callable[[int, str], None]
"""`update(done, note)`: how many are done, and a short note such as "1,840 images/s"."""

LOG_SECONDS = 30.0
"""Without a terminal, a long task says where it is this often."""

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line to a person, on the first rank only."""
    from unlabeled.distributed import is_main

    if is_main():
        console.print(message, markup=False)


@contextmanager
def bar(title: str, total: int) -> Generator[Update]:
    """A bar for one task; yields the function to call as it advances."""
    from unlabeled.distributed import is_main

    if not is_main():
        yield lambda _done, _note="": None
        return
    if not console.is_terminal:
        yield _logger(title, total)
        return
    columns = (
        # Names of files and folders are no markup, whatever brackets are in them.
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda done, note="": progress.update(task, completed=done, note=note)


def _logger(title: str, total: int) -> Update:
    begun = last = time.monotonic()

    def update(done: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOG_SECONDS and 0 < done < total:
            last = now
            remaining = (now - begun) / done * (total - done)
            console.print(f"{title}: {done:,} of {total:,}, {duration(remaining)} to go {note}".rstrip(), markup=False)

    return update


def counted(count: int, what: str, many: str = "") -> str:
    """A number of things for people: 1 image, 1,200 images, 2 classes; `many` where the plural is not `what` and (e)s."""
    plural = many or what + ("es" if what.endswith("s") else "s")
    return f"{count:,} {what if count == 1 else plural}"


def duration(seconds: float) -> str:
    """Time for people: 45 s, 3 min 20 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def roughly(seconds: float) -> str:
    """Time for people as far as an estimate goes: 40 s, 4 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(10 * round(seconds / 10), 10)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return duration(600 * round(seconds / 600))


def size(count: float) -> str:
    """Bytes for people: 512 B, 3.4 MB, 1.2 GB (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        text = f"{count:.0f}" if unit == "B" else f"{count:.1f}"
        if float(text) < 1000:
            return f"{text} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
