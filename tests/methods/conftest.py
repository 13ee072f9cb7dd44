"""What the methods' tests train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pictures import pictures


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """76 striped pictures in an array file: of batches of 24, four are left out of every epoch."""
    path = tmp_path_factory.mktemp("data") / "stripes.npy"
    np.save(path, pictures(76, side=20)[0])
    return path
