"""How the benchmarks take time: processor time of one thread, the rivals in turn, medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def time_in_turn(works: Mapping[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Median CPU seconds of each, one thread, in turns; the first of each is not counted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns + 1):
        for name, step in works.items():
            begun = time.process_time()
            step()
            seconds[name].append(time.process_time() - begun)
    torch.set_num_threads(threads)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}
