"""What surrounds a run: the lock, the stopwatch, the finished result, the checkpoint, what is written and what is not deleted."""

import subprocess
import sys

import pytest
import torch
from helpers import config
from test_record import CFG, HARDWARE, begun, files, made_up_scores, write

from rdlib.errors import InputError
from rdlib.run import checkpoint, record, session
from rdlib.run.files import HALF_WRITTEN, NUMERICS
from rdlib.run.record import run_folder


def test_a_second_process_waits_for_the_first(tmp_path):
    claim = session.claim(tmp_path, run_folder(tmp_path, CFG))
    assert session.claim(tmp_path, run_folder(tmp_path, CFG)) is claim  # the same notebook run again in its kernel
    code = "from pathlib import Path; from filelock import FileLock; import sys; FileLock(sys.argv[1], timeout=0).acquire()"
    other = subprocess.run([sys.executable, "-c", code, claim.lock_file], capture_output=True, text=True)
    assert other.returncode == 1 and "Timeout" in other.stderr


def test_a_results_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: cannot be written \(Not a directory\); give another out_dir"):
        session.claim(tmp_path / "file", run_folder(tmp_path / "file", CFG))


def test_claiming_removes_what_a_kill_left_half_written_and_no_file_of_the_users(tmp_path):
    folder = tmp_path / "runs" / CFG.run_id
    folder.mkdir(parents=True)
    for name in (f"{HALF_WRITTEN}abc.tmp", ".notes.tmp", "checkpoint.pt"):
        (folder / name).touch()
    session.claim(tmp_path, folder)
    assert files(folder) == [".notes.tmp", "checkpoint.pt"]


def test_a_part_is_timed_and_memory_that_runs_out_in_it_is_a_sentence(tmp_path):
    run = begun(tmp_path)
    for _ in range(2):
        with run.part("fit"):
            pass
    assert run.timing.keys() == {"fit_s"} and run.timing["fit_s"] > 0
    with pytest.raises(InputError, match="out of memory while training"), run.part("fit"):
        raise MemoryError


def test_a_finished_run_is_found_and_one_to_be_overwritten_is_not(tmp_path):
    assert begun(tmp_path).done is None
    written = write(tmp_path)
    assert begun(tmp_path).done == written and written["provenance"].items() >= HARDWARE.items()
    assert begun(tmp_path, overwrite=True).done is None and begun(tmp_path, config(seed=7)).done is None


def test_a_result_of_other_numerics_says_so(tmp_path, monkeypatch, capsys):
    write(tmp_path)
    begun(tmp_path)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(record, "NUMERICS", 999)
    begun(tmp_path)
    assert f"numerics {NUMERICS} (now 999)" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"threads": 2}, {"evaluate_every": 1}])
def test_what_changes_bits_or_history_starts_no_checkpoint_anew(tmp_path, change):
    """It is part of the checkpoint's identity."""
    begun(tmp_path).checkpoint.save({"losses": [0.5]})
    assert begun(tmp_path).checkpoint.load() == {"losses": [0.5]}
    with pytest.raises(InputError, match=f"made with another {next(iter(change))}"):
        begun(tmp_path, **change).checkpoint.load()
    torch.set_num_threads(1)
    begun(tmp_path, overwrite=True)
    assert not (tmp_path / "runs" / CFG.run_id / checkpoint.NEWEST).exists()


def test_history_and_where_training_went_on_come_out_of_the_checkpoint(tmp_path):
    first = begun(tmp_path)
    first.history.append({"epoch": 1, "metrics": {"image_auroc": 0.25, "image_ap": 0.5}})
    first.checkpoint.save({"losses": [0.5]})
    again = begun(tmp_path)
    again.checkpoint.load()
    again.timing |= dict.fromkeys(("load_s", "fit_s", "score_s"), 1.0)
    again.write(made_up_scores(), [0.5], {"image_auroc": 1.0, "image_ap": 1.0, "au_pro": 0.5}, {"gmacs": 1.5})
    assert (again.done["history"], again.done["provenance"]["resumed_from"]) == (first.history, 1)
    assert again.done["complexity"] == {"gmacs": 1.5} and again.done["metrics"]["au_pro"] == 0.5
    assert files(again.folder) == ["images.csv.gz", "result.json"], "the checkpoint is gone"


def test_a_device_without_the_runs_precision_is_said_and_written_down(tmp_path, capsys):
    run = begun(tmp_path, config(precision="tf32"))
    said = "float32 in place of tf32, which this device does not have"
    assert capsys.readouterr().out == f"{said}\n" and run.store.log == {"precision": said}
    assert begun(tmp_path).store.log == {}
