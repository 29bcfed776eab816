# `make help` lists the targets. Everything runs in .venv; nothing outside this folder is touched, except by `make browser cluster datasets`.
PYTHON ?= python3
PROFILE ?= demo
DATA ?=
ARGS ?=
BIN := $(CURDIR)/.venv/bin
export DATA
export PATH := $(BIN):$(PATH)
export PYTHONHASHSEED := 0
.DEFAULT_GOAL := help
.PHONY: help setup data reproduce progress report reference notebooks bench gpu own test browser cluster datasets slurm mutants coverage lint lab lock audit

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

setup: .venv/ready  ## create .venv and install the locked requirements and rdlib

.venv/ready: requirements.txt pyproject.toml
	"$(PYTHON)" -m venv .venv
	"$(BIN)/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	"$(BIN)/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

SOURCE ?=
TARGET ?= data/mvtec
SHA256 ?=
PARTIAL ?=

data: setup  ## a complete MVTec AD in TARGET from SOURCE, your archive, folder or address (SHA256= checks it; PARTIAL=1: not all 15)
	python -m rdlib.batch.acquire "$(SOURCE)" "$(TARGET)" --sha256 "$(SHA256)" $(if $(PARTIAL),--partial)

# CACHE: the folder of what runs share, empty keeps nothing.
# GPUS=0,1,2 gives each run one of these devices; ON=slurm hands the runs to a cluster (profiles/slurm), CORES are then those of a cost run.
GPUS ?=
ON ?=
CORES ?= $(if $(ON),4,all)
CACHE ?= results/cache
COMMA := ,
$(if $(ON),$(if $(wildcard profiles/$(ON)/config.yaml),,$(error ON=$(ON): no profiles/$(ON)/config.yaml; there is: $(notdir $(wildcard profiles/*)))))
$(if $(and $(ON),$(GPUS)),$(error GPUS are those of this machine; on a cluster ($(ON)) the scheduler assigns them))
WHERE = $(if $(ON),--workflow-profile profiles/$(ON),--cores $(CORES) $(if $(GPUS),--resources gpu=$(words $(subst $(COMMA), ,$(GPUS)))))
SNAKEMAKE = snakemake $(WHERE) --keep-going --nolock --rerun-incomplete --rerun-triggers mtime --quiet rules host \
  --config profile="$(PROFILE)" gpus="$(GPUS)" cache_dir="$(CACHE)" cost_threads="$(if $(ON),$(CORES))"

reproduce: setup  ## run the batch and make its tables and figures (PROFILE=demo, DATA=folder, ARGS=-n shows the plan)
	$(SNAKEMAKE) $(ARGS)

progress: setup  ## how far the batch is: done, running, left, failed (PROFILE=demo, DATA as the batch has)
	@python -m rdlib.run.progress "$(PROFILE)" "$(DATA)"

report: setup  ## write results/PROFILE/report.html, one page with every table, figure and run (PROFILE=demo, DATA as the batch had)
	python -m rdlib.report.page "results/$(PROFILE)" --data "$(DATA)"

reference: setup  ## make a finished batch (PROFILE) the committed reference and renew the tables in README and docs
	python -m rdlib.batch.reference "$(PROFILE)"

notebooks: setup  ## run every notebook top to bottom, keep the outputs, strip what changes by itself
	cd notebooks && jupyter nbconvert --to notebook --execute --inplace --log-level ERROR *.ipynb
	nbstripout --keep-output --keep-count \
	  --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info" notebooks/*.ipynb

bench: setup  ## measure speed and memory against the plain loop, the official loops and scikit-learn (DATA=folder of categories)
	python tests/tools/bench.py "$(PROFILE)" --data "$(DATA)"

gpu:  ## measure training on the GPU, then the device tests; 6 minutes, needs torch and scikit-learn only (ARGS="--device cpu --quick" tries it)
	"$(PYTHON)" tests/tools/gpu.py $(ARGS)

own: setup  ## measure 11_your_images on MVTec AD's bottle (DATA=folder that holds it) and renew the table in docs
	python tests/tools/own_images.py "$(DATA)"

# As root, or by sudo without a password.
INSTALL = { run=; test "$$(id -u)" = 0 || run="sudo -n"; \
  $$run apt-get update -qq && $$run apt-get install -y -qq --no-install-recommends $(1) > /dev/null; }

browser:  ## install Debian's Chromium for the browser tests if it is missing
	@command -v chromium > /dev/null || $(call INSTALL,chromium) \
	  || echo "chromium could not be installed here; the browser tests will fail and say so" >&2

cluster:  ## install Debian's SLURM for the cluster's tests if it is missing
	@export PATH=$$PATH:/usr/sbin; { command -v munged && command -v slurmctld && command -v slurmd; } > /dev/null \
	  || $(call INSTALL,slurm-wlm munge) || echo "SLURM could not be installed here; its tests will be skipped and say so" >&2

datasets:  ## install Debian's Fashion-MNIST for the tests on real data if it is missing
	@test -d /usr/share/datasets/fashion-mnist || $(call INSTALL,dataset-fashion-mnist) \
	  || echo "dataset-fashion-mnist could not be installed here; the tests on it will be skipped and say so" >&2

# One file of tests is one job of a core (its fixtures are made once), in the order of tests/conftest.py; four at most, for the memory.
PYTEST = pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup browser cluster datasets  ## unit, parity and end-to-end tests, then the notebooks' committed outputs
	$(PYTEST) -rs --durations=15 tests
	pytest --durations=5 --nbval notebooks

mutants: setup  ## break the library on purpose, fault by fault, and see the tests fail
	python tests/tools/mutants.py

coverage: setup  ## which lines and branches of rdlib the tests and notebooks reach
	coverage erase
	coverage run -m $(PYTEST) tests
	for notebook in notebooks/*.ipynb; do coverage run -m papermill --no-progress-bar --log-level ERROR "$$notebook" /dev/null || exit 1; done
	coverage combine --quiet
	coverage report

slurm: setup cluster  ## the cluster's tests alone, on a SLURM of one node that they start
	pytest -rs --durations=5 tests/batch/test_gpus.py tests/batch/test_slurm.py

lint: setup  ## ruff on modules and notebooks
	ruff check rdlib tests notebooks
	ruff format --check rdlib tests

# Without JupyterLab's news, its search for a newer version and its list of extensions, which ask the network.
lab: setup  ## JupyterLab on the notebooks, for this machine only, with a token and without the network
	jupyter lab --ip=127.0.0.1 --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.extension_manager=readonly notebooks

lock:  ## renew requirements.txt from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" -o requirements.txt

audit: setup  ## known vulnerabilities of the locked packages, asked of their database (needs the network)
	"$(PYTHON)" -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.txt
