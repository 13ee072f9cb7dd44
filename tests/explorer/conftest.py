"""A run to explore, and a server of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from explored import Explored, make_explored
from pictures import Trained
from unlabeled.explorer.server import Server


@pytest.fixture(scope="session")
def explored(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    return make_explored(trained, tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="session")
def server(explored: Explored) -> Iterator[Server]:
    with Server(explored.answers, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
