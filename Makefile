# Everything a person does with this repository. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?=
TORCH ?=
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin

SYSTEM_PACKAGES := chromium chromium-driver iproute2 iptables iperf3 fonts-noto-cjk

# Tests and the book never touch the network; training on real models may.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 WANDB_MODE=offline DO_NOT_TRACK=1 TOKENIZERS_PARALLELISM=false
# Two processes side by side, one torch thread each.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help book test lab zoo measurements exercises doctors serve-book system-packages \
    setup-book setup-test setup-lab clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' \
	    | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo
	@echo "  TORCH=cpu      install torch without CUDA (Linux: 0.2 GB instead of several)"
	@echo "  PYTHON=path    the Python to build .venv with (3.11 or newer)"

book: setup-book  ## execute every page and build book/_build/html
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m book.build

test: setup-test system-packages  ## run every test that CI runs
	$(OFFLINE) $(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile

lab: setup-lab  ## open JupyterLab on the chapters (page.md opens as a notebook)
	MATPLOTLIBRC=book/labs.mplstyle $(BIN)/jupyter lab --ip=127.0.0.1 chapters

zoo: setup-book  ## train the tiny models from nothing
	$(BIN)/labs zoo build

measurements: setup-book  ## record the measurements that take too long for a page
	$(BIN)/python -m book.measure

exercises: setup-test  ## generate stubs and exercise pages from solutions/
	$(BIN)/python -m labs.grading.generate

doctors:  ## build each doctor as one file (build/doctors/*.pyz, runs on Python 3.9 or newer)
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m labs.doctors.zipapp_build

serve-book:  ## show the built book on this machine (PORT=8000)
	@test -f book/_build/html/index.html || { echo "There is no built book yet. Run: make book"; exit 2; }
	@echo "http://127.0.0.1:$(PORT)/  (Ctrl-C stops it)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory book/_build/html $(PORT)

system-packages:  ## install what tests need from the system (Debian, as root)
	@if ! command -v dpkg-query > /dev/null; then \
	    echo "Not a Debian system. The tests that need a browser or network tools look for: $(SYSTEM_PACKAGES)"; \
	else \
	    missing=""; \
	    for package in $(SYSTEM_PACKAGES); do \
	        state=$$(dpkg-query -W -f '$${Status}' $$package 2> /dev/null || true); \
	        case "$$state" in *"ok installed") ;; *) missing="$$missing $$package" ;; esac; \
	    done; \
	    if [ -z "$$missing" ]; then \
	        echo "System packages: all there."; \
	    elif [ "$$(id -u)" != 0 ]; then \
	        echo "Missing system packages:$$missing. Tests that need them are skipped."; \
	        echo "To install them: sudo make system-packages"; \
	    else \
	        echo "Installing system packages:$$missing"; \
	        export DEBIAN_FRONTEND=noninteractive; \
	        apt-get update -qq && apt-get install -y --no-install-recommends $$missing; \
	    fi; \
	fi

setup-book:
	@$(call setup,book)

setup-test:
	@$(call setup,book$(comma)test$(comma)trl)

setup-lab:
	@$(call setup,book$(comma)lab)

clean:  ## remove what was built (keeps .venv; work/ is never touched)
	rm -rf book/_build book/_cache build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

comma := ,

# Builds .venv and installs the extras $(1), unless a stamp says that was done with these very files.
define setup
extras="$(1)"; stamp="$(VENV)/.installed-$${extras//,/-}"; \
if command -v sha256sum > /dev/null; then hash=sha256sum; else hash="shasum -a 256"; fi; \
want="$$(cat pyproject.toml constraints.txt | $$hash | cut -d' ' -f1) TORCH=$(TORCH) $$PWD"; \
if [ -f "$$stamp" ] && [ "$$(cat "$$stamp")" = "$$want" ]; then exit 0; fi; \
if [ ! -x $(BIN)/python ]; then \
    python="$(PYTHON)"; \
    for candidate in $${python:-python3 python3.13 python3.12 python3.11}; do \
        if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
            python=$$candidate; break; \
        fi; \
        python=""; \
    done; \
    if [ -z "$$python" ]; then \
        echo "No Python 3.11 or newer was found. Install one, or name it: make PYTHON=/path/to/python3"; exit 2; \
    fi; \
    echo "Creating $(VENV) with $$($$python --version)"; \
    $$python -m venv $(VENV) || { \
        echo "Python could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; \
        rm -rf $(VENV); exit 2; }; \
fi; \
if ! command -v cc > /dev/null; then \
    echo "Note: no C compiler (cc). torch.compile needs one; on Debian and Ubuntu: apt install gcc"; \
fi; \
index=""; \
if [ "$(TORCH)" = cpu ]; then index="--extra-index-url https://download.pytorch.org/whl/cpu"; fi; \
echo "Installing pinned packages ($$extras) into $(VENV)"; \
$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $$index -e ".[$$extras]"; \
echo "$$want" > "$$stamp"
endef
