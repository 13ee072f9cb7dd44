"""Asking a run to stop: Ctrl-C, a batch system or a closed terminal, on one rank or several."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import torch

from unlabeled import progress
from unlabeled.distributed import all_reduce_max, is_distributed

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a run to stop; not every system has all of them."""


class Stop:
    """Whether someone asked the run to end. Ranks must end at the same step, so they ask each other."""

    def __init__(self) -> None:
        self.signal = 0
        self.at_once = False
        """Whether the first signal already ends it: where nothing is left that could be saved first."""

    def asked(self) -> bool:
        """Whether any rank was asked; all ranks call this at the same point and get the same answer."""
        return self.agree(self.signal != 0)

    def asked_alone(self) -> bool:
        """Whether this process was asked, where it may stop without the others: never while there are others."""
        return self.signal != 0 and not is_distributed()

    def agree(self, mine: bool) -> bool:
        """True everywhere if true on any rank; clocks and signals differ between ranks."""
        if not is_distributed():
            return mine
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        return bool(all_reduce_max(torch.tensor([float(mine)], device=device)).item())


@contextmanager
def stop_on_signals() -> Generator[Stop]:
    """Inside, the first of `SIGNALS` only sets the flag, unless `Stop.at_once`; handlers found before are put back after."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.signal or stop.at_once:
            raise KeyboardInterrupt
        stop.signal = number
        progress.say("Stopping after this step, then saving; press Ctrl-C again to stop at once.")

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
