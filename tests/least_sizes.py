"""The smallest sizes at which `--quick` of every protocol still does all it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from unlabeled.protocols import detection, few_labels, inputs, neighbors, probes, voc

FEW = (24, 8, 12)
"""Images that a quick call learns from and is scored on, and that a quick SVM learns from."""


def few_images(put: Callable[[Any, str, Any], None]) -> None:
    """Let `--quick` open so few images that it leaves some of a small set out; `put` as of `shrink`."""
    for module in (neighbors, probes):
        put(module, "QUICK_TRAIN", FEW[0])
    for module in (neighbors, inputs):
        put(module, "QUICK_TEST", FEW[1])
    put(probes, "QUICK_SVM", FEW[2])


def shrink(put: Callable[[Any, str, Any], None]) -> None:
    """Make `--quick` as small as can be; `put` is monkeypatch's `setattr` in a test and Python's in a process of its own."""
    few_images(put)
    put(voc, "QUICK_CLASSIFICATION", (2, 8, 4))
    put(voc, "QUICK_SEGMENTATION", (1, 4, 4))
    put(detection, "QUICK", replace(detection.QUICK, steps=2, side=48))
    put(detection, "QUICK_IMAGES", 4)
    put(detection, "QUICK_PROPOSALS", 20)
    # The package has a function of that name, which hides its module.
    put(import_module("unlabeled.protocols.retrieval"), "QUICK_SIDE", 64)
    put(probes, "QUICK_EPOCHS", 2)
    put(probes, "QUICK_WIDTH", 32)
    put(probes, "RATES", probes.RATES[:2])
    for name, value in {"SHOTS": (1,), "FRACTIONS": (0.1,), "DRAWS": 2, "STEPS": 2, "VIEWS": 16, "TEST": 16}.items():
        put(few_labels, f"QUICK_{name}", value)
