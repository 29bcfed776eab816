"""A SLURM of one node on this machine, from Debian's packages (apt-get install slurm-wlm munge), without systemd or accounting.

`python tests/tools/slurm.py start FOLDER` prints the variable that makes sbatch, squeue and Snakemake use it; `status`, `stop`.
`python tests/tools/slurm.py jobs FOLDER PROJECT > docs/slurm_demo_jobs.csv` lists what became of the jobs of the batch in PROJECT.
The node has this machine's cores and, for want of real ones, two GPUs that are made up: SLURM hands them out like real ones.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
from helpers import PATIENCE

PROGRAMS = ("munged", "slurmctld", "slurmd")
os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian has them
CONFIGURATION = """
ClusterName=one
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
SlurmdTimeout=8
KillWait=5
ReturnToService=2
NodeName={node} NodeAddr=127.0.0.1 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def installed() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


def environment(folder: Path) -> dict[str, str]:
    """This process's variables, and those that make it use the SLURM of `folder`."""
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def start(folder: Path) -> None:
    """Start munged, slurmctld and slurmd in `folder`, and wait until the node takes jobs.

    folder: has to be enterable by everybody (munged insists) and its path short (it holds a socket)
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    hardware = _output(["slurmd", "-C"]).split("\n")[0].removeprefix("NodeName=")
    user = _output(["id", "-un"]).strip()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, user=user, node=hardware, ports=_free_ports(2)))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
    # Within a job Snakemake's plugin drops every variable SLURM_*, this one too, before it calls srun.
    (folder / "bin").mkdir()
    (folder / "bin" / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    (folder / "bin" / "srun").chmod(0o755)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
    files |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    subprocess.run(["munged", *(f"--{name}={path}" for name, path in files.items())], check=True)
    subprocess.run(["slurmctld", "-f", folder / "slurm.conf"], env=environment(folder), check=True)
    start_node(folder)


def start_node(folder: Path) -> None:
    """Start slurmd, the node, as after a reboot (-b) with an empty disk (-c), and wait until it takes jobs."""
    subprocess.run(["slurmd", "-bc", "-f", folder / "slurm.conf"], env=environment(folder), check=True)
    _wait_until_node_is(folder, "idle", "mixed", "allocated")


def kill_node(folder: Path, notice: bool = True) -> int:
    """What a power cut does: slurmd and all that its jobs run are gone at once; slurmctld is not told and has to notice.

    returns: how many processes were killed
    """
    ours = _ours(folder)
    jobs = [p for p in ours if "SLURM_JOB_ID" in p.environ()]
    parents = {p.parent() for p in jobs}  # slurmstepd writes its title over its environment
    daemons = [p for p in ours if p.name() == "slurmd"] + [p for p in parents if p and p.name().startswith("slurmstepd")]
    for process in daemons + jobs:  # in this order, or the node would still report how its jobs ended
        process.kill()
    psutil.wait_procs(daemons + jobs, timeout=PATIENCE)
    if notice:
        _wait_until_node_is(folder, "down", "down*")
    return len(daemons + jobs)


def stop(folder: Path) -> None:
    """End the jobs and the three programs, and remove the folder."""
    kill_node(folder, notice=False)
    for name in ("slurmctld", "munged"):
        pid = folder / f"{name}.pid"
        if pid.is_file() and psutil.pid_exists(int(pid.read_text())):
            process = psutil.Process(int(pid.read_text()))
            if process.name() == name:
                process.terminate()
                process.wait(PATIENCE)
    shutil.rmtree(folder, ignore_errors=True)


def status(folder: Path) -> str:
    """The node, its jobs, and those that have ended."""
    ended = folder / "jobs.txt"
    return _output(["sinfo", "-N", "-l"], folder) + _output(["squeue"], folder) + (ended.read_text() if ended.is_file() else "")


def ended_jobs(folder: Path) -> list[dict[str, str]]:
    """One row per job that came to an end, a job that was started again once per start: SLURM's own completion log."""
    path = folder / "jobs.txt"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]


def jobs_table(folder: Path, project: Path) -> pd.DataFrame:
    """One row per start of a job, in order: what it ran (from Snakemake's log), how it ended, seconds since the first one's start."""
    logs = "".join(path.read_text() for path in (project / ".snakemake" / "log").glob("*.log"))
    names = {
        job: place.split("/")[-1].removeprefix("rule_") for job, place in re.findall(r"jobid (\d+) \(log: \S*/slurm_logs/(\S+)/", logs)
    }
    ended = pd.DataFrame([row for row in ended_jobs(folder) if row["WorkDir"] == str(project)])
    start, end = (pd.to_datetime(ended[name]) for name in ("StartTime", "EndTime"))
    rows = {"job": ended["JobId"].astype(int), "run or notebook": ended["JobId"].map(names), "state": ended["JobState"]}
    times = {"start_s": (start - start.min()).dt.total_seconds().astype(int), "seconds": (end - start).dt.total_seconds().astype(int)}
    return pd.DataFrame(rows | times | {"cpus": ended["ProcCnt"].astype(int)}).sort_values(["start_s", "job"])


def _wait_until_node_is(folder: Path, *states: str) -> None:
    for _ in range(2 * PATIENCE):
        if _output(["sinfo", "-h", "-o", "%T"], folder, check=False).strip() in states:
            return
        time.sleep(0.5)
    logs = "".join((folder / f"{name}.log").read_text() for name in ("slurmctld", "slurmd"))
    raise TimeoutError(f"the node does not become {' or '.join(states)}:\n{logs}")


def _ours(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_CONF") == str(folder / "slurm.conf"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _output(words: list[str], folder: Path | None = None, check: bool = True) -> str:
    variables = environment(folder) if folder else None
    return subprocess.run(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=check).stdout


def new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    return folder


if __name__ == "__main__":
    command, *place = sys.argv[1:]
    if command == "start":
        folder = Path(place[0]).resolve() if place else new_folder()
        start(folder)
        print(f"export SLURM_CONF={folder}/slurm.conf PATH={folder}/bin:$PATH")
    elif command == "jobs":
        print(jobs_table(*(Path(p).resolve() for p in place)).to_csv(index=False), end="")
    elif command in ("status", "stop"):
        folder = Path(place[0] if place else Path(os.environ["SLURM_CONF"]).parent)
        print(status(folder) if command == "status" else stop(folder) or "stopped")
