"""Fixtures every test may use: where the golden numbers and the real images are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=CHECKOUT / "tests" / "golden", help="folder with the golden .npz files")


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """Folder of the golden reference data, `--golden DIR` or the copy in the project."""
    return request.config.getoption("--golden").resolve()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images beside the checkout; the test is skipped where it is absent."""
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real images in ../shared/data beside the checkout")
    return folder


@pytest.fixture(autouse=True)
def _one_thread_per_worker() -> None:
    """Two pytest workers on two cores: more threads would only fight."""
    torch.set_num_threads(1)
