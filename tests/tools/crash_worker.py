"""What the crash tests kill: one small training with a checkpoint after every epoch, in a process of its own."""

import json
import os
import time
from pathlib import Path

import torch
from helpers import TinyTeacher, config, image_set

from rdlib import fit, model
from rdlib.evaluate import evaluate
from rdlib.run import files
from rdlib.run.checkpoint import Checkpoint
from rdlib.score import score

CFG = config(epochs=12)
SLOW_S = 0.2  # of a write on the slow disk
TRAIN, TEST = image_set(9), image_set(6, masks=True, seed=3)


def train(folder: Path, slow_disk: bool = False) -> None:
    """Train, going on from what is there, and write metrics, losses and notes to folder/end.json.

    slow_disk: every write takes SLOW_S, so that kills fall into it
    """
    if slow_disk:
        fsync = os.fsync
        os.fsync = lambda handle: (time.sleep(SLOW_S), fsync(handle))
    torch.set_num_threads(1)
    fit.seed_everything(CFG)
    net = model.build(CFG, TinyTeacher())
    checkpoint = Checkpoint(folder, {"config": CFG.to_dict()}, every_s=0)

    def after_epoch(epoch: int, loss: float) -> None:
        checkpoint.notes.append({"epoch": epoch, "seen": evaluate(score(net, TEST, CFG), CFG)["pixel_auroc"]})

    losses = fit.fit(net, TRAIN, CFG, after_epoch, checkpoint=checkpoint)
    end = {"metrics": evaluate(score(net, TEST, CFG), CFG), "losses": losses, "notes": checkpoint.notes}
    files.write_atomically(folder / "end.json", json.dumps(end))


def fill_the_disk(folder: Path) -> None:
    """Train until the small disk at `folder` is full; prints the error's sentence."""
    try:
        train(folder)
    except ValueError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        raise SystemExit(3) from None


if __name__ == "__main__":
    import sys

    fill_the_disk(Path(sys.argv[1]))
