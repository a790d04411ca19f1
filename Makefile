# Two commands: `make label` shows what this does on the sample photographs, `make test` checks all of it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: label install test lint unit pipeline quality clean

label: install
	$(BIN)/python pipelines/label_corpus.py --corpus sample: --output out/sample

install: $(VENV)/.installed

# torch comes first and pinned: with a CPU-only index its pin finds the small build, and nothing later replaces it.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,pretrain,formats]'
	touch $@

test: $(VENV)/.installed-dev lint unit pipeline quality

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/unit -q -n logical --dist loadfile --durations 15

pipeline: $(VENV)/.installed-dev
	$(BIN)/pytest tests/pipeline -q -n 2 --dist loadfile --no-loadscope-reorder --durations 30

quality: $(VENV)/.installed-dev
	$(BIN)/pytest tests/quality -q

clean:
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache
