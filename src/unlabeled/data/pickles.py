"""Pickles read with a list of names: whatever is not in the list ends the reading before anything is made of it.

A pickle is a program for Python's unpickler, and what makes it dangerous is that it may call any function by name. Files of
published weights (`weights/legacy.py`) and of CIFAR (`cifar_python.py`) need a handful of names, and those are given here
as stand-ins of the reader's own.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import IO, Any


class ListedUnpickler(pickle.Unpickler):
    """Looks names up in a list and knows no others."""

    def __init__(self, file: IO[bytes], known: Mapping[str, Any], encoding: str) -> None:
        """known: what stands for each full name, `module.name` as the file writes it. encoding: of Python 2's strings."""
        super().__init__(file, encoding=encoding)
        self.known = dict(known)

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Raises UnpicklingError, `GLOBAL module.name`, for every name but the listed ones."""
        name = f"{module_name}.{global_name}"
        if name not in self.known:
            raise pickle.UnpicklingError(f"GLOBAL {name}")
        return self.known[name]
