"""The verb that looks at a run in the browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unlabeled.cli.console import app, is_first
from unlabeled.config import Device


@app.command(usage="Usage: unlabeled explore RUN [OPTIONS]")
def explore(
    run: Path,
    *,
    port: int = 8765,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    token: Annotated[bool, Parameter(negative="--no-token")] = True,
    device: Device = "auto",
) -> None:
    """Look at a run in the browser: clusters, images, neighbours. Ctrl-C ends it.

    The pages come from this machine and are for this machine only; nothing is written and nothing is sent anywhere.

    Parameters
    ----------
    run
        Folder of the run.
    port
        Where to listen on 127.0.0.1; 0 takes any that is free.
    browser
        Open the browser, or only say the address.
    token
        Let in only who knows the token in the printed address; with --no-token every user of this machine can look.
    device
        Where to compute.
    """
    from unlabeled import api, session

    if is_first:
        api.load(run, device=session.prepare_device(device)).explore(port, browser=browser, token=token)
        # It only ends when it is stopped, and a stop has the same status for every verb. At once: nothing is open that
        # was written to, and a thread that still loads the network or makes the map would abort the interpreter as it ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
