# The front door. `make help` lists what there is.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORK ?= work
SAMPLE := $(WORK)/sample
ROWS ?= 12000
SEED ?= 0
# the version of the data that git has here; with other ROWS or another SEED, a sample that is no version
DATA := $(if $(filter 12000-0,$(ROWS)-$(SEED)),data/pairs.csv,$(SAMPLE)/pairs-$(ROWS)-$(SEED).csv)
# images: <registry>/mlops-<kind>:<tag>, as `mlops` finds them by MLOPS_REGISTRY and MLOPS_TAG
DOCKER ?= docker
DOCKER_BUILD_ARGS ?=
REGISTRY ?= $(or $(MLOPS_REGISTRY),legalaid)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(or $(MLOPS_TAG),$(VERSION))
IN_IMAGES = MLOPS_REGISTRY=$(REGISTRY) MLOPS_TAG=$(TAG)
# the cluster of cluster-up and the targets beside it: kind, minikube, or existing (kubectl's current context); the one
# that was last brought up, where it isn't said
CLUSTER ?= $(or $(shell cat $(WORK)/cluster 2>/dev/null),kind)
ON_CLUSTER = CLUSTER=$(CLUSTER) WORK=$(WORK) $(IN_IMAGES) $(BIN)/python -m mlops.cluster
# tests that run side by side, each with servers of its own: no more than four
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n : 4)))
# a thread each: there are as many workers as processors, and libraries that take all of them wait for one another
ONE_THREAD = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
# a file's tests stay together, as they share what was made for them; the folders that take long come first
PYTEST = $(ONE_THREAD) $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
KINDS := base trainer monitor client mlflow
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-header --no-emit-package legalaid-mlops

.DEFAULT_GOAL := help
.PHONY: help setup dev run dashboard repro data/pairs.csv sample-production test test-unit test-all lint format bench bench-decision bench-split bench-drift bench-parts bench-observe bench-alerts bench-experiments bench-gateway bench-dashboard startup compile docs ui lock images clean \
  cluster-up submit schedule open status logs cluster-down

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make .venv with what a run needs, from the locked requirements
dev: $(VENV)/.dev ## the same with what the tests and linters need

# a lock is complete: pip has nothing to resolve
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --no-deps

# the stamps are newer than what they were made from: unchanged requirements are installed once
$(VENV)/.ready: requirements/local.txt requirements/build.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, $$($(PYTHON) --version) was found; set PYTHON=python3.12, say"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked requirements into $(VENV) (some minutes, the first time)"
	@$(PIP) --require-hashes -r requirements/local.txt -r requirements/build.txt
	@$(PIP) --no-build-isolation -e .
	@$(BIN)/python -m matchmaking.reporting.dashboard.assets
	@touch $@

$(VENV)/.dev: $(VENV)/.ready requirements/dev.txt
	@echo "Installing what the tests need"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

data/pairs.csv: setup
	@$(BIN)/mlops data checkout

$(SAMPLE)/pairs-$(ROWS)-$(SEED).csv: | setup
	@$(BIN)/mlops data generate --rows $(ROWS) --seed $(SEED) --out $@

# a first production model, from fewer pairs of an earlier time: an incumbent that can be beaten
$(SAMPLE)/production/lawyer_match_model.h5: | setup
	@$(BIN)/mlops data generate --rows 1000 --seed 1000 --out $(SAMPLE)/first-pairs.csv
	@$(BIN)/mlops bootstrap --data $(SAMPLE)/first-pairs.csv --production $(SAMPLE)/production --work-dir $(WORK)

sample-production: $(SAMPLE)/production/lawyer_match_model.h5

# half a year of what production would have been shown, up to the day it is made: prices rise in its middle
$(SAMPLE)/logs/truth.csv: $(SAMPLE)/production/lawyer_match_model.h5 | setup
	@rm -rf $(SAMPLE)/logs
	@$(BIN)/mlops data generate-logs --model $(SAMPLE)/production --days 180 --volume 150 --drift prices \
	  --drift-day 100 --out $(SAMPLE)/logs

run: setup $(DATA) $(SAMPLE)/production/lawyer_match_model.h5 $(SAMPLE)/logs/truth.csv ## retrain, evaluate, monitor and observe once, on sample data
	@$(BIN)/mlops run all --data $(DATA) --production $(SAMPLE)/production --predictions $(SAMPLE)/logs/predictions \
	  --outcomes $(SAMPLE)/logs/outcomes --work-dir $(WORK)

dashboard: setup ## one page over all runs: $(WORK)/dashboard.html
	@$(BIN)/mlops dashboard --work-dir $(WORK) $(if $(wildcard $(SAMPLE)/production),--production $(SAMPLE)/production)

test: dev ## the whole test suite that needs no Docker; WORKERS=1 runs one test at a time
	@$(PYTEST) -m 'not docker'
	@echo "Left out: what runs in containers; make test-all runs that too, and needs a Docker engine"

test-all: dev images ## build the images, and run every test
	@$(IN_IMAGES) MLOPS_TEST_INSTALL=1 $(PYTEST)
	@$(MAKE) --no-print-directory startup

test-unit: dev ## the quick part of it
	@$(PYTEST) tests/unit

repro: setup data/pairs.csv ## the same as DVC stages (dvc.yaml): only what has changed, with metrics and plots to compare
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/dvc repro

lint: dev ## ruff, mypy, the layers, the Dockerfiles, the workflows and YAML
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/hadolint docker/*.Dockerfile
	@$(BIN)/yamllint --strict .github .yamllint.yaml dvc.yaml params.yaml matchmaking/evidence/policy.yaml
	@$(BIN)/zizmor --quiet --offline --no-progress .github/workflows

format: dev ## let ruff format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup ## time, share of imports and peak memory of each pipeline, at 12 k, 120 k and 1.2 M rows (ROWS=12000000 for others)
	@$(BIN)/python -m benchmarks.pipelines $(addprefix --rows ,$(ROWS))

bench-decision: setup ## how often the decision is wrong, on simulated pairs of models
	@$(BIN)/python -m benchmarks.decision

bench-split: setup ## whether held-out pairs tell the truth once the dataset grows
	@$(BIN)/python -m benchmarks.split

bench-drift: setup ## how often drift is found where there is none, and where there is, by the number of categories
	@$(BIN)/python -m benchmarks.drift

bench-parts: setup ## what evaluate-parts and monitor-parts take a row, and with that a billion rows in 1,000 parts on paper
	@$(BIN)/python -m benchmarks.parts

bench-observe: setup ## whether estimates tell how production does before outcomes come, on a year of traffic
	@$(BIN)/python -m benchmarks.observe

bench-alerts: setup ## how often an alert is false, and in how many days a loss is told, on years of traffic
	@$(BIN)/python -m benchmarks.alerts

bench-gateway: dev ## what an experiment's gateway costs its callers, at 200 requests a second for a minute
	@$(BIN)/python -m benchmarks.gateway

bench-experiments: setup ## how often an experiment is wrong over 60 daily looks, and how soon it is right; SRM, guardrails
	@$(BIN)/python -m benchmarks.experiments
	@$(BIN)/python -m benchmarks.experiment_days

bench-dashboard: dev ## the dashboard over 2,000 runs and 20 slices: how large, how fast made and drawn
	@$(BIN)/python -m benchmarks.dashboard

startup: setup ## the time from a container's start to the first line of our code, for each image of steps
	@$(IN_IMAGES) $(BIN)/python -m benchmarks.startup

compile: setup ## one KFP YAML file a pipeline, in build/
	@$(BIN)/mlops compile

docs: setup ## docs/reference.md from the code
	@$(BIN)/python -m mlops.reference > docs/reference.md

ui: setup ## the MLflow UI on http://localhost:5001
	@$(BIN)/mlops ui --work-dir $(WORK)

# constrained by dev.txt, so that images hold what is tested here; train and monitor come on top of base
lock: ## resolve the requirements anew (needs uv)
	@$(LOCK) --extra dev pyproject.toml -o requirements/dev.txt
	@$(LOCK) --constraint requirements/dev.txt pyproject.toml -o requirements/base.txt
	@$(LOCK) --constraint requirements/dev.txt --extra local pyproject.toml -o requirements/local.txt
	@for set in train monitor dashboard; do \
	  $(LOCK) --constraint requirements/dev.txt --extra $$set -o requirements/$$set.txt pyproject.toml \
	    $$(sed -nE 's/^([a-z0-9._-]+)==.*/--no-emit-package \1/p' requirements/base.txt) || exit; \
	done
	@for set in build mlflow; do \
	  $(LOCK) --constraint requirements/dev.txt --group $$set -o requirements/$$set.txt || exit; \
	done

images: ## build the container images; REGISTRY and TAG name them
	@set -e; export DOCKER_BUILDKIT=1; \
	revision=$$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || echo $(VERSION)); \
	build() { \
	  $(DOCKER) build $(DOCKER_BUILD_ARGS) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$revision \
	    --build-arg DEPS=$(REGISTRY)/mlops-deps:$(TAG) --build-arg BASE=$(REGISTRY)/mlops-base:$(TAG) "$$@" .; \
	}; \
	build --target deps --tag $(REGISTRY)/mlops-deps:$(TAG) --file docker/base.Dockerfile; \
	for kind in $(KINDS); do \
	  build --tag $(REGISTRY)/mlops-$$kind:$(TAG) --file docker/$$kind.Dockerfile; \
	done
	@echo; $(DOCKER) image inspect --format '{{index .RepoTags 0}} {{.Size}}' \
	  $(foreach kind,$(KINDS),$(REGISTRY)/mlops-$(kind):$(TAG)) | awk '{printf "  %-48s %6.0f MB\n", $$1, $$2 / 1e6}'

clean: ## remove what runs and builds left behind (not .venv)
	@rm -rf $(WORK) build

cluster-up: setup ## the platform on a cluster (CLUSTER=kind, minikube or existing), or what differs; then what to open
	@$(ON_CLUSTER) up $(if $(OVERLAY),--overlay $(OVERLAY)) $(ARGS)

submit: setup ## run PIPELINE=retrain, say, on the cluster, and follow it; ARGS go to `mlops submit`
	@$(ON_CLUSTER) submit $(or $(PIPELINE),$(error say which: make submit PIPELINE=retrain)) $(ARGS)

schedule: setup ## KFP's recurring runs, in the CronJobs' place: ARGS=apply, list or remove
	@$(ON_CLUSTER) schedule $(or $(ARGS),list)

open: setup ## forward the UIs: KFP on port 8080, MLflow on 5001, the dashboard on 5002, MinIO's console on 9001
	@$(ON_CLUSTER) open

status: setup ## what runs on the cluster, what waits and why
	@$(ON_CLUSTER) status

logs: setup ## the log of STEP=train, say, or of a part of the platform (STEP=mlflow)
	@$(ON_CLUSTER) logs $(or $(STEP),$(error say which: make logs STEP=train))

cluster-down: setup ## delete the cluster; of an existing one, what was installed (ARGS=--yes)
	@$(ON_CLUSTER) down $(ARGS)
