# Runs -> tables and figures -> comparison with the committed reference. `make reproduce` calls this; see `make help`.
import json
import os
import shlex
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError

from rdlib.batch import failure, gpus
from rdlib.run import plan

PROFILE = config.get("profile", "demo")
DATA = os.environ.get("DATA", "")  # not of --config, which makes the number 202401 of a folder named 2024_01
OUT = f"results/{PROFILE}"
REFERENCE = f"results/reference/{PROFILE}"
GPUS = "" if config.get("gpus") is None else str(config["gpus"])  # of this machine, "0,1,2"; on a cluster the scheduler assigns them
CACHE = str(config.get("cache_dir", "results/cache") or "")  # what runs share; "" keeps nothing
CHECKPOINT_S = config.get("checkpoint_s")  # least seconds between checkpoints, None leaves it to 02_run

if GPUS:
    gpus.parse(GPUS)  # refuses what is none before anything starts

missing = plan.missing(PROFILE, DATA)
if missing:
    print(plan.plan_text(PROFILE, DATA), file=sys.stderr)
    raise WorkflowError(f"profile {PROFILE} cannot run; {len(missing)} thing(s) are missing:\n  " + "\n  ".join(missing))

MOST_ATTEMPTS = 3  # of a run whose kernel died; an error of the run itself would only come again
# What one run asks of a cluster: megabytes and minutes (every further attempt asks for as much again), GPUs.
NEEDS = {"demo": (4_000, 30, 0), "cpu": (8_000, 240, 0), "paper": (16_000, 480, 1)}[PROFILE]

RUNS = plan.runs(PROFILE, DATA)
TRAINERS = plan.trainers(RUNS)
TABLES = {table: [plan.identity(p) for p in needed] for table, needed in plan.tables(PROFILE, DATA).items()}
# Without any run of its own (no MVTec category under DATA, say) a notebook has nothing to tell.
REPORTS = {notebook: report for notebook, report in plan.REPORTS.items() if any(map(TABLES.get, report.needs))}
BEGUN = []  # the lock of a batch, held for as long as this process lives


def begin(_):
    """The runs' input, none: Snakemake asks for it when it chooses jobs, and knows by then whether it will start them."""
    if BEGUN or not workflow.is_main_process or workflow.executor_plugin is None or workflow.touch:
        return []  # begun already; or a job of a batch, or a command that only looks (--summary, --dag) or tidies (--unlock)
    BEGUN.append(FileLock(f"{OUT}/.batch.lock", timeout=0))  # Snakemake's own outlives a kill; this one goes with the process
    for line in [plan.plan_text(PROFILE, DATA)] if workflow.dryrun else plan.data_lines(PROFILE, DATA):
        print(line, file=sys.stderr)
    if workflow.dryrun:
        return []
    try:
        Path(OUT).mkdir(parents=True, exist_ok=True)
        BEGUN[0].acquire()
        failure.forget(Path(OUT))  # what failed last time is tried again
    except Timeout:  # exit: of an exception Snakemake would show where it was raised
        sys.exit(f"another batch is running on {OUT}; wait for it or stop it")
    except OSError as error:
        sys.exit(f"{OUT}: cannot be written ({error.strerror}); allow writing there")
    return []


def result(run_id):
    return f"{OUT}/runs/{run_id}/result.json"


def trainer(wildcards):
    """Of train_on=all, the run that trains the model that this one shares: no core waits for it. How old it is does not matter."""
    return [ancient(result(TRAINERS[wildcards.run_id]))] if wildcards.run_id in TRAINERS else []


def threads_of(run_id):
    """Cost runs have the machine for themselves and take all its threads, or as many as were said (each job of a cluster
    reads this file anew and must come to the same number as the machine that asked for the cores)."""
    return int(config.get("cost_threads") or workflow.cores) if RUNS[run_id].get("measure") else 1


def flags(run_id, threads):
    """The papermill flags of one run."""
    values = {"save_maps": plan.keeps_maps(RUNS[run_id])} | RUNS[run_id]
    values |= {"threads": threads, "out_dir": OUT, "cache_dir": CACHE, "checkpoint_s": CHECKPOINT_S}
    # -r: text as it is; papermill would make a number of a folder named 2024_01
    return " ".join(f"{'-r' if isinstance(v, str) else '-p'} {name} {shlex.quote(str(v))}" for name, v in values.items())


def files(report):
    """What a report notebook always writes."""
    kinds = [(f"{OUT}/tables/{name}.csv", name) for name in report.tables] + [(f"{OUT}/figures/{name}.png", name) for name in report.figures]
    return [file for file, name in kinds if name not in report.sometimes]


PAPERMILL = "papermill --no-progress-bar notebooks/{params.notebook}.ipynb {params.executed} {params.flags} > {log} 2>&1"
# The end of the log is the sentence that says why.
SHOW_WHY = " || {{ tail -n 3 {log} >&2; exit 1; }}"
ON_A_GPU = f"python -m rdlib.batch.gpus {shlex.quote(GPUS)} " if GPUS else ""


localrules:
    all,
    compare,


rule all:
    input:  # everything by name, so that whatever is deleted is made again
        f"{OUT}/comparison.txt",
        [result(run_id) for run_id in RUNS],
        [file for report in REPORTS.values() for file in files(report)],


rule run:
    input:
        begin,
        trainer,
    output:  # update: a result whose Snakemake was killed counts as incomplete, and is looked at and not removed
        update(OUT + "/runs/{run_id}/result.json"),
    retries: MOST_ATTEMPTS - 1
    resources:
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: NEEDS[0] * attempt,
        runtime=lambda wildcards, attempt: NEEDS[1] * attempt,
        gpu=1 if GPUS else NEEDS[2],
        slurm_extra=lambda wildcards: "--exclusive" if RUNS[wildcards.run_id].get("measure") else "",
    params:
        notebook="02_run",
        executed=lambda wildcards: f"{OUT}/executed/runs/{wildcards.run_id}.ipynb",
        flags=lambda wildcards, threads: flags(wildcards.run_id, threads),
        parameters=lambda wildcards: shlex.quote(json.dumps(RUNS[wildcards.run_id])),
    log:
        OUT + "/executed/runs/{run_id}.log",
    threads: lambda wildcards: threads_of(wildcards.run_id)
    shell:  # a failure becomes a row of the tables, so that it stops nothing else; its reason is not one of an earlier batch
        f"rm -f {{params.executed}}; {ON_A_GPU}{PAPERMILL} || python -m rdlib.batch.failure {{output}} {{params.executed}} {{params.parameters}} {{resources.attempt}} {MOST_ATTEMPTS}"


for notebook, report in REPORTS.items():

    rule:
        name:
            f"report_{notebook}"
        input:
            [result(run_id) for table in report.needs for run_id in TABLES.get(table, [])],
            f"notebooks/{notebook}.ipynb",
        output:
            f"{OUT}/executed/{notebook}.ipynb",
            files(report),
        params:
            notebook=notebook,  # bound here: the shell command is put together after the loop
            executed=f"{OUT}/executed/{notebook}.ipynb",
            flags=f"-p results_dir {OUT} -p out_dir {OUT}",
        resources:
            mem_mb=lambda wildcards, attempt: 4_000 * attempt,
            runtime=lambda wildcards, attempt: 60 * attempt,
        log:
            f"{OUT}/executed/{notebook}.log",
        shell:
            PAPERMILL + SHOW_WHY


rule compare:
    input:
        [f"{OUT}/executed/{notebook}.ipynb" for notebook in REPORTS],
        [result(run_id) for run_id in RUNS],
    output:
        f"{OUT}/comparison.txt",
    shell:
        "python -m rdlib.batch.compare {OUT} {REFERENCE} | tee {output}"
