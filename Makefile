# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test quick coverage lint docs bundled clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

demo: $(BIN)/.installed ## the whole chain on simulated patients, about 8 minutes on two cores
	$(BIN)/echosynth demo --out demo_out

test: $(BIN)/.installed ## lint, types and tests
	$(MAKE) lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup

quick: $(BIN)/.installed ## tests that neither draw nor train
	$(BIN)/python -m pytest -n 2 -m "not slow"

coverage: $(BIN)/.installed ## lines and branches that the tests go through, per file
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadgroup
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(BIN)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(BIN)/.installed ## the command reference, from the commands themselves
	$(BIN)/python docs/recipes/make_reference.py docs/commands.md

bundled: $(BIN)/.installed ## train the weights that ship with the package (about 20 minutes on two cores)
	PATH="$(abspath $(BIN)):$$PATH" docs/recipes/train_bundled.sh

clean:
	rm -rf $(VENV) demo_out
