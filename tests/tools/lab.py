"""A JupyterLab of a test: started with settings of its own, yielded once it answers, stopped at the end."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers import PATIENCE


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def jupyterlab(*options: str, root: Path, own: Path, environment: dict[str, str] | None = None):
    """What the server wrote of itself (port, token, hostname), once it answers: it writes that before it listens.

    `options` go to `jupyter lab` before the folder `root`; `own` holds settings, kernels' files and the log.
    """
    places = {f"JUPYTER_{kind}_DIR": str(own / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    words = [sys.executable, "-m", "jupyter", "lab", *options, "--port=0", "--no-browser", "--allow-root", str(root)]
    log = own / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(words, cwd=root, env=os.environ | places | (environment or {}), stdout=out, stderr=out)
    try:
        yield answering(process, own / "RUNTIME", log)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def answering(process: subprocess.Popen, runtime: Path, log: Path) -> dict:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            with suppress(json.JSONDecodeError):  # being written
                server = json.loads(path.read_text())
                if listens(server["port"]):
                    return server
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab does not answer:\n{log.read_text()}")
