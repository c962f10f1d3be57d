# Every target sets itself up in .venv. `make demo` and `make test` are all a newcomer needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DATASET ?= ml-100k
PORT ?= 3000
MLFLOW_PORT ?= 5000
DAGSTER_PORT ?= 3070

export DVC_NO_ANALYTICS = 1
export GX_ANALYTICS_ENABLED = false
export BENTOML_DO_NOT_TRACK = True
export MLFLOW_DISABLE_TELEMETRY = true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION = false
export HF_HUB_OFFLINE = 1
export TRANSFORMERS_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)

.PHONY: help setup demo test test-slow lint types imports check ui serve migrate-demo day-two bench bench-gates bench-semantic-ids bench-quality clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.done ## a virtual environment with everything, pinned

$(VENV)/.done: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install it, or make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@# dvc.lock is written by every run; a template's clone stays clean, your own repository should commit it
	@# (git update-index --no-skip-worktree dvc.lock).
	@git update-index --skip-worktree dvc.lock 2>/dev/null || true
	@touch $@

demo: setup ## ML-100K through the whole graph, and the verdict
	$(BIN)/segue run --dataset ml-100k
	@$(BIN)/segue summary --dataset ml-100k
	@echo
	@echo "read    reports/ml-100k/index.html   reports/ml-100k/evaluation.html"
	@echo "ui      make ui      Dagster http://127.0.0.1:$(DAGSTER_PORT)   MLflow http://127.0.0.1:$(MLFLOW_PORT)"
	@echo "serve   make serve   http://127.0.0.1:$(PORT)   (the contender: {\"path\": \"generative\"})"

test: setup ## the tests that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2

test-slow: setup ## the long ones too
	$(BIN)/python -m pytest -m ""

lint: setup ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict on src/
	$(BIN)/mypy

imports: setup ## imports run one way
	$(BIN)/lint-imports --no-cache

check: lint types imports ## lint, types, imports

ui: setup ## Dagster (webserver and daemon) and MLflow
	$(BIN)/python -m orchestration.ui --dagster-port $(DAGSTER_PORT) --mlflow-port $(MLFLOW_PORT)

serve: setup ## bentoml serve, following the deployment
	SEGUE_DATASET=$(DATASET) $(BIN)/bentoml serve bento.service:Recommender --host 127.0.0.1 --port $(PORT)

migrate-demo: setup ## after demo: replay real users, then simulate planted truths; prints the timelines
	$(BIN)/segue migrate-demo --dataset ml-100k

day-two: setup ## take in what arrived
	$(BIN)/segue day-two --dataset $(DATASET)

bench: demo ## the benchmarks that take minutes, and RESULTS.md from what all wrote
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.decoding
	$(BIN)/python -m benchmarks.hstu_attention
	$(BIN)/python -m benchmarks.images
	$(BIN)/python -m benchmarks.tokenizers
	$(BIN)/python -m benchmarks.demo
	$(BIN)/python -m benchmarks.gates
	$(BIN)/python -m benchmarks.render

EMBEDDED := ingest validation splits sequences text_embeddings image_embeddings attribute_embeddings collaborative_embeddings
QUALITY := $(BIN)/segue bench quality --seeds 3 --out benchmarks/results/quality.json
TUNED := ml-100k movielens-latest-small
ALL_BUT_SLOW := popularity,item_knn,two_tower,sasrec,sasrec_content,sasrec_pair,sasrec_two_tower,sasrec_trio,esasrec,hstu_items,cascade,house

bench-semantic-ids: setup ## what semantic IDs are worth downstream, on SEGUE_DATA (hours on two cores; resumable)
	for dataset in movielens-latest-small amazon-beauty; do \
	  for step in $(EMBEDDED); do $(BIN)/segue step $$step --dataset $$dataset; done; done
	$(BIN)/python -m benchmarks.semantic_ids --dataset movielens-latest-small --vary modalities --only all text image collaborative
	$(BIN)/python -m benchmarks.semantic_ids --dataset amazon-beauty --vary tokenizers --epochs 6 --users 5000 --levels 128 64 128 \
	  --set generative.dimensions=64 --set generative.code_tower=shared --set generative.dropout=0.3
	$(BIN)/python -m benchmarks.semantic_ids --dataset amazon-beauty --vary insertion --only contrastive --epochs 6
	$(BIN)/python -m benchmarks.render

bench-quality: setup ## the quality tables of three datasets, on SEGUE_DATA (hours on two cores; resumable)
	$(BIN)/segue data fetch ml-100k
	for dataset in $(TUNED) amazon-beauty; do \
	  for step in $(EMBEDDED); do $(BIN)/segue step $$step --dataset $$dataset; done; done
	for dataset in $(TUNED); do $(QUALITY) --dataset $$dataset --trials 6 --models $(ALL_BUT_SLOW); done
	$(QUALITY) --dataset amazon-beauty --validation-users 5000 --validation-gap --filter-seen yes \
	  --models popularity,item_knn,two_tower,sasrec,sasrec_content,sasrec_pair,esasrec,hstu_items,house
	$(BIN)/python -m benchmarks.render

bench-gates: setup ## false alarms and power of the online gates, on 2,000 simulated experiments (some minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.gates
	$(BIN)/python -m benchmarks.render

clean: ## what the graph can write again; fetched sources and state/ (with what was appended) stay
	@! ls -d data/*/landing 2>/dev/null || { echo "an older version's appended data lies there: \`segue run\` moves it to state/ first"; exit 1; }
	rm -rf reports
	find data -mindepth 2 -maxdepth 2 ! -name raw -exec rm -rf {} +
