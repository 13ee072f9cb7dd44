"""Ctrl-C ends `unlabeled explore` as it ends every verb, whatever the explorer is doing."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from explored import Explored


@pytest.mark.parametrize(
    ("busy", "ignored", "number"),
    [
        (False, False, signal.SIGINT),
        (True, False, signal.SIGINT),
        (False, True, signal.SIGINT),
        (False, True, signal.SIGTERM),
    ],
    ids=["idle", "making the map", "SIGINT ignored by the parent", "SIGTERM"],
)
def test_ctrl_c_frees_the_port_and_leaves_no_traceback(
    explored: Explored, tmp_path: Path, busy: bool, ignored: bool, number: signal.Signals
) -> None:
    """Also in the background of a script, where SIGINT arrives ignored."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    line = [
        sys.executable,
        "-m",
        "unlabeled",
        "explore",
        str(explored.run.path),
        "--port",
        "0",
        "--no-browser",
        "--no-token",
    ]
    (explored.run.path / "projection.safetensors").unlink(missing_ok=True)
    before = sorted(path.name for path in explored.run.path.iterdir())
    with (tmp_path / "said").open("w+") as said:
        running = subprocess.Popen(
            [*line, "--device", "cpu"],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
        )
        try:
            port = 0
            while not port:
                assert running.poll() is None, (tmp_path / "said").read_text()
                found = re.search(r"http://127\.0\.0\.1:(\d+)/", (tmp_path / "said").read_text())
                port = int(found[1]) if found else 0
                time.sleep(0.05)
            if busy:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("GET", "/api/map")
                assert connection.getresponse().status == 200
                connection.close()
            running.send_signal(number)
            status = running.wait(timeout=60)
        finally:
            running.kill()
            running.wait()
    text = (tmp_path / "said").read_text()
    assert status == 130, text
    assert "Traceback" not in text
    assert "Error" not in text
    assert text.splitlines()[-1] == "The explorer has ended."
    with socket.socket() as again:
        # Connections that were open may linger; a listener may not.
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
    assert sorted(path.name for path in explored.run.path.iterdir()) == before
