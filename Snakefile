# Runs -> tables -> comparison with the committed reference. `make reproduce` calls this; see `make help`.
import shlex

from rdlib import experiments

PROFILE = config.get("profile", "demo")
OUT = f"results/{PROFILE}"
RUNS = experiments.runs(PROFILE)
TABLES = experiments.tables(PROFILE)


def result(run_id):
    return f"{OUT}/runs/{run_id}/result.json"


def flags(run_id):
    """The papermill flags of one run."""
    values = RUNS[run_id] | {"threads": 1, "out_dir": OUT}
    return " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in values.items())


rule all:
    input:
        f"{OUT}/comparison.txt",


rule run:
    output:
        OUT + "/runs/{run_id}/result.json",
    params:
        flags=lambda wildcards: flags(wildcards.run_id),
        executed=lambda wildcards: f"{OUT}/executed/02_run/{wildcards.run_id}.ipynb",
    log:
        OUT + "/executed/02_run/{run_id}.log",
    threads: 1
    shell:
        "papermill --no-progress-bar notebooks/02_run.ipynb {params.executed} {params.flags} > {log} 2>&1"
        " || {{ tail -n 3 {log}; exit 1; }}"


rule mvtec:
    input:
        [result(i) for i in RUNS],
        notebook="notebooks/04_mvtec.ipynb",
    output:
        f"{OUT}/executed/04_mvtec.ipynb",
        directory(f"{OUT}/tables"),
    log:
        f"{OUT}/executed/04_mvtec.log",
    shell:
        "papermill --no-progress-bar {input.notebook} {output[0]} -p results_dir {OUT} -p out_dir {OUT} > {log} 2>&1"
        " || {{ tail -n 3 {log}; exit 1; }}"


rule compare:
    input:
        f"{OUT}/executed/04_mvtec.ipynb",
    output:
        f"{OUT}/comparison.txt",
    shell:
        "python -m rdlib.compare {OUT} results/reference/{PROFILE} | tee {output}"
