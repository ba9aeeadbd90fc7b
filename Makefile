# Two commands do everything on a fresh machine with Python >= 3.11:
#   make demo   install into .venv and rank the example bank on the example target
#   make test   install into .venv and run the linters, the type checker and the tests
PYTHON ?= python3
BIN := .venv/bin
BASE := .venv/.installed
STAMP := .venv/.installed-dev

.PHONY: demo test lint types unit clean

$(BASE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt 'torch==2.13.0' -e .
	touch $@

$(STAMP): $(BASE)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	# The peer that a test compares with. It pins a bioimageio.spec that fails with today's pydantic
	# (fixed in the one pinned here), hence without its dependencies.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps bioimageio.core==0.11.0 imagecodecs
	touch $@

demo: $(BASE)
	$(BIN)/cte demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest

test: lint types unit

clean:
	rm -rf .venv build dist demo-run
