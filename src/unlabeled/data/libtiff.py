"""What libtiff, inside Pillow, has to say about damaged files: kept off the terminal and handed to who decodes.

By default libtiff writes such lines to standard error by itself, in the middle of a progress bar, while Pillow gives the
pixels as if nothing had happened. libtiff lets a program set a handler instead; Pillow sets none for errors. Errors that
end a file reach us from Pillow as exceptions, with or without it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from PIL import _imaging as pillow  # pyright: ignore[reportAttributeAccessIssue]

_Handler: Any = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_here = threading.local()
"""`sources`: the parts of libtiff that complained in this thread, since `complaints` was entered."""
_installing = threading.Lock()
_installed = False


def _note(source: bytes | None, _format: bytes | None, _arguments: int | None) -> None:
    # The message itself is text with a C list of arguments; that there was one is enough.
    getattr(_here, "sources", []).append((source or b"libtiff").decode(errors="replace"))


_handler = _Handler(_note)
"""Held as long as the process lives: libtiff keeps its address."""


def _install() -> None:
    global _installed
    with _installing:
        if _installed:
            return
        _installed = True
        try:
            # Looked up through Pillow's own module, so that it is the copy of libtiff that Pillow calls.
            install: Any = ctypes.CDLL(str(pillow.__file__)).TIFFSetErrorHandler
        except (OSError, AttributeError):
            return  # a Pillow that hides its libtiff: the lines stay where they are
        install.argtypes, install.restype = [_Handler], ctypes.c_void_p
        install(_handler)


@contextmanager
def complaints() -> Generator[list[str]]:
    """The parts of libtiff that complain while this thread is inside, such as `Fax4Decode`; empty for a sound file."""
    _install()
    before, _here.sources = getattr(_here, "sources", []), list[str]()
    try:
        yield _here.sources
    finally:
        _here.sources = before
