"""Fixtures every test may use: where the golden numbers and the real images are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pictures import Trained, make_trained
from report_pages import launched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHECKOUT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", type=Path, default=CHECKOUT / "tests" / "golden", help="folder with the golden .npz files"
    )


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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Pictures in class folders and a finished run on them, shared by all tests: never written to, copy it first."""
    torch.set_num_threads(1)
    return make_trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium without a window; for one file at a time, since its event loop disturbs other tests."""
    with launched() as found:
        yield found
