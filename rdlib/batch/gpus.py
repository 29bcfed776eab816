"""One command on a GPU that no other has, or as many on one as it is named times: `python -m rdlib.batch.gpus 0,1,2 COMMAND ...`.

Snakemake counts GPUs and assigns none (SLURM does both). The device is held by a POSIX record lock, which stays with the process
when it becomes the command and is not inherited by what that starts: the device is free again when the command ends, however it
ends and whatever it leaves behind, and no daemon or clean-up is needed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import sys
import time
from pathlib import Path

from rdlib.errors import InputError, exit_in_words
from rdlib.paths import resolve

LOCKS = "results/locks"  # of all profiles


def parse(text: str) -> list[str]:
    """Devices from "0,1,2", as CUDA_VISIBLE_DEVICES has them: numbers or UUIDs. One named twice takes two commands at once.

    raises: InputError if one is empty or no device's name
    """
    devices = text.split(",")
    if not all(re.fullmatch(r"[A-Za-z0-9-]+", device) for device in devices):
        raise InputError(f"GPUS={text!r}: devices separated by commas, for example '0,1,2', or '0,0' for two runs at once on one")
    return devices


def take(devices: list[str], folder: Path, poll_s: float = 1) -> tuple[str, int]:
    """The first device that has room, waiting for one if need be; each place on it has a lock of its own.

    folder: of the locks; may be shared by several machines
    returns: the device and the open file that holds it until it is closed
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = [(device, f".{nth}" if (nth := devices[:i].count(device)) else "") for i, device in enumerate(devices)]
    while True:
        for device, place in places:
            handle = os.open(folder / f"gpu-{platform.node()}-{device}{place}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return device, handle
            except (BlockingIOError, PermissionError):  # which of them is up to the system
                os.close(handle)
        time.sleep(poll_s)


def run_on(devices: list[str], command: list[str], folder: Path) -> None:
    """Become the command, with CUDA_VISIBLE_DEVICES set to one free device. Does not return."""
    device, handle = take(devices, folder)
    os.set_inheritable(handle, True)
    os.execvpe(command[0], command, os.environ | {"CUDA_VISIBLE_DEVICES": device})


if __name__ == "__main__":
    with exit_in_words():
        run_on(parse(sys.argv[1]), sys.argv[2:], resolve(LOCKS))
