# Developer commands. None needs root.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup check test test-all demo collapse-lab monitor clean

VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
DEMO_DATA := runs/data/embedded-prepared-short_side-64-max_fps-8
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Install the locked dependencies and xkd itself into .venv

# PyPI's torch for Linux is a CUDA build. With TORCH_INDEX, the URL of an index, torch comes from there in its locked version,
# and the packages of CUDA are left out.
# This package's kfp script replaces the one that kfp installs, so xkd is always (re)installed last.
$(VENV)/.installed: requirements.lock pyproject.toml
	@if command -v uv >/dev/null; then \
	    set -ex; \
	    test -x $(BIN)/python || uv venv --quiet --python 3.11 $(VENV); \
	    install="uv pip install --python $(BIN)/python --compile-bytecode"; index=--default-index; \
	else \
	    for python in python3.11 python3.12 python3; do \
	        $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && break; \
	        python=; \
	    done; \
	    test -n "$$python" || { echo "setup needs Python 3.11 or 3.12 (or uv, which fetches one)" >&2; exit 1; }; \
	    set -ex; \
	    test -x $(BIN)/python || $$python -m venv $(VENV); \
	    install="$(BIN)/python -m pip install"; index=--index-url; \
	fi; \
	if test -n "$(TORCH_INDEX)"; then \
	    grep -E '^(torch|torchaudio|torchvision)==' requirements.lock > $(VENV)/torch.lock; \
	    grep -vE '^(torch|torchaudio|torchvision|triton|nvidia-.*|cuda-.*)==' requirements.lock \
	        > $(VENV)/without-torch.lock; \
	    $$install --no-deps $$index "$(TORCH_INDEX)" -r $(VENV)/torch.lock; \
	    $$install --no-deps -r $(VENV)/without-torch.lock; \
	else \
	    $$install -r requirements.lock; \
	fi; \
	$$install --no-deps --no-build-isolation --force-reinstall -e .
	@touch $@

check: setup ## Lint, and check formatting and types
	ruff check
	ruff format --check
	mypy

test: setup ## Run the quick tier of the tests
	pytest -n auto --dist loadfile -m "not system and not slow and not apiserver"

test-all: test ## Also run the tests with processes, servers, pipelines and whole workflows; not the slow ones
	pytest -m "system and not slow and not apiserver"

demo: setup ## Run the whole pipeline on the embedded dataset, up to the tables and the report
	kfp run submit pipelines/xkd_full.py --local preset=toy run=$(DEMO)
	@echo; cat $(DEMO)/report/tables.md; echo; echo "report: $(DEMO)/report/report.html"

collapse-lab: setup ## Train small runs that collapse as in the paper, and check the verdicts on them
	xkd fetch embedded --out runs/data/embedded
	xkd prepare runs/data/embedded --preset lab --out $(DEMO_DATA)
	python benchmarks/collapse_lab.py --data $(DEMO_DATA) --out runs/collapse-lab

monitor: setup ## Start Prometheus with our rules for a run on this machine (Debian package prometheus)
	@command -v prometheus >/dev/null || { echo "monitor needs Prometheus, on Debian: apt-get install prometheus" >&2; exit 1; }
	mkdir -p runs/monitor
	cp k8s/monitoring/local/prometheus.yaml runs/monitor
	python -c 'import yaml; print(yaml.safe_dump(yaml.safe_load(open("k8s/monitoring/rules.yaml"))["spec"]))' \
	    > runs/monitor/rules.yaml
	@echo "Prometheus serves the runs' metrics at http://localhost:9090/graph and our alerts at http://localhost:9090/alerts"
	prometheus --config.file=runs/monitor/prometheus.yaml --storage.tsdb.path=runs/monitor/data

clean: ## Remove the outputs of runs and tools, but not .venv
	rm -rf runs data dvc_plots build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
