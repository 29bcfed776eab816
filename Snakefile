# Runs -> tables and figures -> comparison with the committed reference. `make reproduce` calls this; see `make help`.
import json
import shlex
import sys
from pathlib import Path

from filelock import FileLock, Timeout
from snakemake.cli import parse_args
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from rdlib.batch import failure, gpus
from rdlib.run import plan, progress

PROFILE = config.get("profile", "demo")
DATA = str(config.get("data") or "")  # snakemake reads an empty value as None
OUT = f"results/{PROFILE}"
REFERENCE = f"results/reference/{PROFILE}"
GPUS = "" if config.get("gpus") is None else str(config["gpus"])  # of this machine, "0,1,2"; on a cluster the scheduler assigns them
CACHE = str(config.get("cache_dir", "results/cache") or "")  # what runs share; "" keeps nothing

CHECKPOINT_S = "" if config.get("checkpoint_s") is None else str(config["checkpoint_s"])  # least seconds between checkpoints, "" leaves it to 02_run

if GPUS:
    gpus.parse(GPUS)  # refuses what is none before anything starts
# Options with which Snakemake only looks, or tidies, and starts nothing.
LOOKS = "dryrun touch summary detailed_summary dag rulegraph filegraph d3dag lint list_rules list_target_rules list_changes list_input_changes"
LOOKS += " list_params_changes list_untracked print_compilation report containerize unlock cleanup_metadata cleanup_shadow archive"
LOOKS += " delete_all_output delete_temp_output conda_create_envs_only conda_cleanup_envs list_conda_envs generate_unit_tests"
PARSER, ARGUMENTS = parse_args(sys.argv[1:])  # Snakemake's own reading of its command: "-np" is a dry run too
STARTS = all(getattr(ARGUMENTS, name, None) == PARSER.get_default(name) for name in LOOKS.split())

missing = plan.missing(PROFILE, DATA)
if missing or ARGUMENTS.dryrun:
    print(plan.plan_text(PROFILE, DATA), file=sys.stderr)
if missing:
    raise WorkflowError(f"profile {PROFILE} cannot run; {len(missing)} thing(s) are missing:\n  " + "\n  ".join(missing))

MOST_ATTEMPTS = 3  # of a run whose kernel died; an error of the run itself would only come again
# What one run asks of a cluster: megabytes and minutes (every further attempt asks for as much again), GPUs.
NEEDS = {"demo": (4_000, 30, 0), "cpu": (8_000, 240, 0), "paper": (16_000, 480, 1)}[PROFILE]

if workflow.is_main_process and STARTS:  # not in onstart, which comes after the plan is made and not at all if nothing is to do
    # Snakemake's own lock outlives a kill; this one goes with the process.
    try:
        Path(OUT).mkdir(parents=True, exist_ok=True)
        LOCK = FileLock(f"{OUT}/.batch.lock", timeout=0)
        LOCK.acquire()
        failure.forget(Path(OUT))  # what failed last time is tried again
        (Path(OUT) / progress.STARTED).touch()
    except Timeout:
        raise WorkflowError(f"another batch is running on {OUT}; wait for it or stop it") from None
    except OSError as error:
        raise WorkflowError(f"{OUT}: cannot be written ({error.strerror}); allow writing there") from None

RUNS = plan.runs(PROFILE, DATA)
TABLES = {table: [plan.identity(p) for p in needed] for table, needed in plan.tables(PROFILE, DATA).items()}
# Report notebook -> tables whose runs it reads, and one file of each kind that it always writes.
REPORTS = {
    "04_mvtec": (["mvtec", "baselines"], ["tables/same_teacher.csv", "figures/category_bars.png"]),
    "05_complexity": (["complexity", "mvtec", "baselines"], ["tables/table3_size.csv"]),
    "06_novelty": (["novelty", "novelty_sweep"], ["tables/table4.csv", "figures/novelty_classes.png"]),
    "07_ablations": (["mvtec", "bottleneck", "backbones"], ["tables/table5.csv", "tables/table6.csv", "tables/table7.csv"]),
    "08_figures": (["mvtec", "baselines"], ["figures/fig1_conventional_vs_reverse.png", "figures/fig7_histograms.png"]),
    "09_deviations": (["mvtec", "deviations"], ["tables/deviations.csv", "figures/deviations.png"]),
}
# Without any run of its first table (no MVTec category under DATA, say) a notebook has nothing to tell.
REPORTS = {notebook: report for notebook, report in REPORTS.items() if TABLES[report[0][0]]}


# Two lines for every choice of jobs would bury those of the progress.
logger.addFilter(lambda record: not str(record.msg).startswith(("Select jobs", "Execute ")))


onstart:  # here and not in the jobs, whose output stays on the cluster's nodes
    if workflow.is_main_process:
        progress.tell(Path(OUT), set(RUNS))


def result(run_id):
    return f"{OUT}/runs/{run_id}/result.json"


def threads_of(run_id):
    """Cost runs have the machine for themselves and take all its threads, or as many as were said (each job of a cluster
    reads this file anew and must come to the same number as the machine that asked for the cores)."""
    return int(config.get("cost_threads") or workflow.cores) if RUNS[run_id].get("measure") else 1


def flags(run_id, threads):
    """The papermill flags of one run."""
    values = {"save_maps": plan.keeps_maps(RUNS[run_id])} | RUNS[run_id] | {"threads": threads, "out_dir": OUT, "cache_dir": CACHE}
    values |= {"checkpoint_s": CHECKPOINT_S} if CHECKPOINT_S else {}
    return " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in values.items())


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
        [f"{OUT}/{file}" for _, written in REPORTS.values() for file in written],


rule run:
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


for notebook, (needed, written) in REPORTS.items():

    rule:
        name:
            f"report_{notebook}"
        input:
            [result(run_id) for table in needed for run_id in TABLES[table]],
            f"notebooks/{notebook}.ipynb",
        output:
            f"{OUT}/executed/{notebook}.ipynb",
            [f"{OUT}/{file}" for file in written],
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
