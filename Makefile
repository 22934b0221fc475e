# Everything runs in .venv, which the first target makes; nothing outside the checkout is touched.
# ARGS goes to the program that a target runs; PYTHON names another Python >= 3.11.

VENV := .venv
PY := $(VENV)/bin/python
# Runs side by side, each device with a core to itself; without it they share one device.
ON_ALL_CORES := JAX_NUM_CPU_DEVICES=$$($(PY) -c "import os; print(os.cpu_count())") \
	XLA_FLAGS="--xla_cpu_multi_thread_eigen=false $$XLA_FLAGS"
# Nearly all that the tests do is tracing and compiling: programs that compile in half the time.
QUICK := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 $$XLA_FLAGS"
# In the order of their names: the reordering puts few long tests last, where they keep one waiting.
PYTEST := $(PY) -m pytest -n auto --dist loadscope --no-loadscope-reorder
# What rests on the rounding of the programs that users get: compiled as for them.
AS_USED := tests/data/test_oscillator_data.py tests/solvers/test_tolerance.py
PIP := $(PY) -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # one pip at a time in one environment
.SUFFIXES:
.PHONY: help reproduce figure6 figure7 choices test test-slow kill-test device-test lint format \
	bench bench-peers robustness docs constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

reproduce: $(VENV)/.installed-experiments ## Reproduce the paper
	$(PY) -m experiments.reproduce $(ARGS)

figure6: $(VENV)/.installed-experiments ## Figure 6 at the paper's own scale
	$(ON_ALL_CORES) $(PY) -m experiments.pendulum +experiment=pendulum_full $(ARGS)

figure7: $(VENV)/.installed-experiments ## Figure 7 at the paper's own scale
	$(ON_ALL_CORES) $(PY) -m experiments.capacity $(ARGS)

choices: $(VENV)/.installed-experiments ## Figure 6 under other readings of the paper
	$(ON_ALL_CORES) $(PY) -m experiments.choices $(ARGS)

test: $(VENV)/.installed-test ## Run the tests, the slow ones left out
	$(PYTEST) $(AS_USED) $(ARGS)
	$(QUICK) $(PYTEST) $(addprefix --ignore=,$(AS_USED)) $(ARGS)

test-slow: $(VENV)/.installed-test ## Run the slow tests
	$(PYTEST) -m "slow and not gpu" $(ARGS)

kill-test: $(VENV)/.installed-test ## Kill a run 20 times at random moments and compare (some minutes)
	$(PY) -m pytest tests/experiments/test_kill.py -m "slow or not slow" $(ARGS)

device-test: $(VENV)/.installed-test ## Compare 1 device with 8, and 1 process with 2
	$(PY) -m pytest tests/experiments/test_devices.py -m "slow or not slow" $(ARGS)

lint: $(VENV)/.installed-dev ## Check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

format: $(VENV)/.installed-dev ## Fix style and format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/.installed-bench ## Measure steps and solves, and list what fixed-step solvers fail
	$(PY) -m benchmarks.training_step
	$(PY) -m benchmarks.linear_solves
	$(PY) -m benchmarks.fixed_step_failures
	$(PY) -m benchmarks.sweep_cost
	$(PY) -m benchmarks.memory

bench-peers: $(VENV)/.installed-peers ## Measure irnn_jax beside its peers (about 12 minutes; torch is large)
	mkdir -p runs
	$(PY) -m benchmarks.suite --json runs/suite.json --figure runs/suite.png $(ARGS)

robustness: $(VENV)/.installed-bench ## Measure what docs/robustness.md shows (about 20 minutes)
	$(PY) -m benchmarks.ensemble
	$(PY) -m benchmarks.lost_equilibria
	$(PY) -m benchmarks.well_posed

docs: $(VENV)/.installed-docs ## Build the documentation into site/; a warning is an error
	@$(PY) -m zensical build --clean --strict >$(VENV)/docs.log 2>&1; status=$$?; cat $(VENV)/docs.log; \
		test $$status = 0 && ! grep -q '^griffe:' $(VENV)/docs.log # --strict lets griffe's pass

constraints: $(VENV)/.created ## Pin what pyproject.toml asks for (ARGS=--upgrade for newer versions)
	$(PIP) install uv
	$(PY) -m uv pip compile -q --python-version 3.11 --no-emit-index-url --no-header \
		$$($(PY) -c "$$EXTRAS_TO_PIN") pyproject.toml -o constraints.txt $(ARGS)

# All but the peers: torch would bring CUDA.
define EXTRAS_TO_PIN
import tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*("--extra=" + extra for extra in extras if extra != "peers"))
endef
export EXTRAS_TO_PIN

clean: ## Remove .venv, caches and built files; runs/ stays
	rm -rf $(VENV) build dist site .benchmarks .cache .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras; pip runs again only when a version may have changed.
EXTRAS_test := cluster,test

$(VENV)/.installed-peers: benchmarks/peers.txt $(VENV)/.installed-dev
	@$(PIP) install -c constraints.txt -r benchmarks/peers.txt
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing irnn_jax[$(or $(EXTRAS_$*),$*)] into $(VENV) ..."
	@$(PIP) install -c constraints.txt -e ".[$(or $(EXTRAS_$*),$*)]"
	@touch $@

$(VENV)/.created:
	@for python in $(or $(PYTHON),python3.11 python3); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			"$$python" -m venv $(VENV) && touch $@ && exit 0; exit 1; \
		fi; \
	done; \
	echo "irnn_jax needs Python >= 3.11; none of these is: $(or $(PYTHON),python3.11 python3)." >&2; \
	echo "Name one with: make PYTHON=/path/to/python3.11 ..." >&2; \
	exit 1
