# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DOCS := .venv-docs

.PHONY: demo test quick coverage lint docs site bundled dist clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev]"
	touch $@

demo: $(BIN)/.installed ## the whole chain on simulated patients, 6 to 9 minutes on two cores
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

# Of pyproject.toml the extra alone: the site is built from sources and needs none of what the package needs.
$(DOCS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet uv
	$(DOCS)/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > $(DOCS)/requirements.txt
	$(DOCS)/bin/uv pip install --quiet --python $(DOCS)/bin/python -c constraints.txt -r $(DOCS)/requirements.txt
	touch $@

site: $(DOCS)/.installed ## the docs site, into site/; look at it with python -m http.server -d site
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict # never --quiet: then warnings are not counted

bundled: $(BIN)/.installed ## train the weights that ship with the package (about an hour of one core)
	PATH="$(abspath $(BIN)):$$PATH" docs/recipes/train_bundled.sh

# twine and cyclonedx-bom come for this command alone, by uv; neither is needed to use or develop the package.
dist: $(BIN)/.installed ## wheel and sdist, checked, and the list of what they were tested with (SBOM, CycloneDX), into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(BIN)/uv tool run twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/uv tool run --from cyclonedx-bom cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible --of JSON -o dist/echosynth.cdx.json

clean:
	rm -rf $(VENV) $(DOCS) demo_out site dist
