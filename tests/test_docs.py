"""The documents: links, anchors, navigation, the public API's page, the tutorials' code, without what builds the site."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from echo_synth import __version__
from tests.warm import Warm

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "tutorial.ipynb"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / f for f in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])
MADE = {"tutorial.md": "tutorial.ipynb", "contributing.md": "../CONTRIBUTING.md", "changelog.md": "../CHANGELOG.md"}
NAMES = [str(p.relative_to(ROOT)) for p in PAGES]


def _without_code(text: str) -> str:
    """Text without its blocks and spans of code, where nothing is a link or a heading."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^(```|~~~).*?^\1$", "", text, flags=re.M | re.S))


def _headings(page: Path) -> list[str]:
    text = re.sub(r"^(```|~~~).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [re.sub(r"[`*]", "", h).strip() for h in re.findall(r"^#+ (.*)$", text, flags=re.M)]


def _site_anchor(heading: str) -> str:
    """As the site makes it (Python-Markdown's toc): ASCII only."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def _github_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _links(page: Path) -> Iterator[tuple[str, str]]:
    """Address and anchor of every link and picture that is not of another host."""
    for address in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", address):
            path, _, anchor = address.partition("#")
            yield path, anchor


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in _links(page):
        target = (page.parent / path).resolve() if path else page
        assert path != "tutorial.md", (
            f"{page}: link {NOTEBOOK.name}, which is in the repository; the site leads to its page"
        )
        if target.parent == DOCS and target.name in MADE:
            target = DOCS / MADE[target.name]  # a page of the site that is made of this file
            assert page.is_relative_to(DOCS), f"{page}: {path} is there on the site alone"
        assert target.exists(), f"{page}: {path} is not there"
        assert ROOT in target.resolve().parents, f"{page}: {path} leads out of the repository"
        if anchor:
            anchors = ({f(h) for h in _headings(target)} for f in (_site_anchor, _github_anchor))
            assert all(anchor in known for known in anchors), f"{page}: {path}#{anchor}: no heading is called so"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_headings_can_be_linked_to(page: Path) -> None:
    """One title, and no two headings of one anchor where something links to it."""
    linked = {a for other in PAGES for p, a in _links(other) if a and (other.parent / p).resolve() == page}
    counted = Counter(_site_anchor(h) for h in _headings(page))
    assert not {a for a in linked if counted[a] > 1}


def _site() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return content


def _files(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for inner in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _files(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = list(_files(_site()["nav"]))
    there = {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")} | MADE.keys()
    assert sorted(listed) == sorted(there)


def test_the_site_takes_nothing_from_other_hosts() -> None:
    site = _site()
    assert site["theme"]["font"] is False
    assert site["strict"] is True
    assert "site_url" not in site
    for file in (*site["extra_css"], *site["extra_javascript"]):
        assert "//" not in (DOCS / file).read_text(encoding="utf-8").replace("// ", "")
    levels = [level for checks in site["validation"].values() for level in checks.values()]
    assert set(levels) == {"warn"}  # and strict makes errors of them


def test_the_site_leads_the_notebooks_link_to_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    files = ModuleType("mkdocs.structure.files")  # of what builds the site, which need not be installed
    monkeypatch.setattr(files, "File", object, raising=False)
    monkeypatch.setattr(files, "Files", object, raising=False)
    for module in (ModuleType("mkdocs"), ModuleType("mkdocs.structure"), files):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = spec_from_file_location("site_pages", DOCS / "recipes/site_pages.py")
    assert found is not None
    assert found.loader is not None
    hook = module_from_spec(found)
    found.loader.exec_module(hook)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    assert hook.on_page_markdown("[a](tutorial.ipynb) [b](faq.md)", page) == "[a](tutorial.md) [b](faq.md)"


def _public() -> list[tuple[str, str]]:
    """Module and name of everything on the page of the public API."""
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^::: (\S+)\n    options:\n      members: \[(.*)\]$", text, flags=re.M)
    assert len(blocks) == text.count(":::")
    return [(module, name) for module, names in blocks for name in names.split(", ")]


@pytest.mark.parametrize(("module", "name"), _public())
def test_what_is_public_is_documented_and_typed(module: str, name: str) -> None:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    nodes = ast.parse(file.read_text(encoding="utf-8")).body
    found = [n for n in nodes if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name]
    assert found, f"{module} defines no {name}"
    assert ast.get_docstring(found[-1]), f"{module}.{name} has no docstring"
    if isinstance(found[-1], ast.FunctionDef):
        assert found[-1].returns is not None


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    newest = next(h for h in _headings(ROOT / "CHANGELOG.md") if h != "[Unreleased]" and h.startswith("["))
    assert __version__ == project == citation == newest.split("]")[0].removeprefix("[")


def test_documents_name_no_machine() -> None:
    notebook = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text(encoding="utf-8"))
    texts = {p: p.read_text(encoding="utf-8") for p in [*PAGES, ROOT / "mkdocs.yml"]} | {NOTEBOOK: notebook}
    assert not [p for p, text in texts.items() if re.search(r"(?<!SWEEP)/(work|tmp|root|home/\w+)/", text)]


def test_the_notebook_shows_what_it_did_and_stays_small() -> None:
    cells = [c for c in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))  # top to bottom, in one go
    assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
def test_the_notebook_runs(warm: Warm, tmp_path: Path) -> None:
    """Its code with this checkout, in a folder that is not the checkout."""
    script = DOCS / "recipes/run_notebook.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [warm.python, script, NOTEBOOK], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    for said in ("8 images of 8 patients, complete", "12 cases of 3 patients", "lateral_mm", "each as it was made"):
        assert said in ended.stdout
    shown = [float(x) for x in re.findall(r"evaluations: +([\d.]+) grey levels", ended.stdout)]
    assert shown == sorted(shown, reverse=True)  # more evaluations, nearer
    assert shown[-1] == 0
    assert not list(tmp_path.iterdir())


# --- the tutorials -------------------------------------------------------------------------------------------------------


def _blocks(page: str, language: str) -> list[tuple[str, str]]:
    """File and content of the blocks of a tutorial that have a title."""
    text = (DOCS / "tutorials" / page).read_text(encoding="utf-8")
    return re.findall(rf'^```{language} title="(\S+)"\n(.*?)^```$', text, flags=re.M | re.S)


def _edited(page: str, file: str) -> str:
    """A file of the repository with the edits that a tutorial asks for; every edit must fit in exactly one place."""
    content = (ROOT / file).read_text(encoding="utf-8")
    for _, diff in [block for block in _blocks(page, "diff") if block[0] == file]:
        lines = diff.splitlines(keepends=True)
        old = "".join(line[1:] or "\n" for line in lines if line[0] in " -")
        new = "".join(line[1:] or "\n" for line in lines if line[0] in " +")
        assert content.count(old) == 1, f"{page}: {file} has {content.count(old)} places like\n{old}"
        content = content.replace(old, new)
    return content


def _module(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of that name, of this source, for the time of a test."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("page", sorted(p.name for p in (DOCS / "tutorials").glob("*.md")))
def test_the_edits_of_a_tutorial_fit_the_files(page: str) -> None:
    edited = {file for file, _ in _blocks(page, "diff")}
    assert edited
    for file in edited:
        content = _edited(page, file)
        ast.parse(content) if file.endswith(".py") else json.loads(content)


def test_the_solver_of_the_tutorial_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Order and exact budget, by the functions that test every registered solver."""
    from echo_synth import sampling
    from tests.sampling import test_sampling as measure

    ((_, source),) = _blocks("add-a-solver.md", "python")
    midpoint = _module("echo_synth.sampling.midpoint", source, monkeypatch)
    monkeypatch.setattr(sampling, "midpoint", midpoint, raising=False)  # as an import from the package finds it
    edited = _module("edited_sampling", _edited("add-a-solver.md", "echo_synth/sampling/__init__.py"), monkeypatch)
    assert edited.SOLVERS.keys() == sampling.SOLVERS.keys() | {"midpoint"}
    monkeypatch.setitem(sampling.SOLVERS, "midpoint", midpoint.SOLVER)
    monkeypatch.setitem(sampling._METHODS, "midpoint", midpoint.SOLVER)
    measure.test_budget_is_spent_exactly("midpoint")
    measure.test_order_of_convergence("midpoint", measure.solved_by_scipy())
    measure.test_noise_is_drawn_by_stochastic_solvers_and_where_churn_is_asked_for("midpoint")


def test_the_metric_of_the_tutorial_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from echo_synth import metrics
    from echo_synth.data.image2d import Image2D
    from tests.analytic import square

    (_, function), (_, test) = _blocks("add-a-metric.md", "python")
    made = _module("echo_synth.metrics.surface_dice", function, monkeypatch)
    monkeypatch.setattr(metrics, "surface_dice", made, raising=False)
    its_test = _module("test_surface_dice", test, monkeypatch)
    its_test.test_a_square_that_is_moved_by_two_millimetres()
    its_test.test_empty_masks()
    scores = _module("scores", _edited("add-a-metric.md", "echo_synth/evaluation/case_scores.py"), monkeypatch)
    truth, moved = (Image2D(square(40, row, 5, 10).astype(np.uint8), (0.5, 0.5)) for row in (5, 12))
    table = scores.score_table(scores.score_masks("patient0001_2CH_ED", moved, truth)).set_index("structure")
    assert 0 < table.loc["lv_endo", "surface_dice"] < 1  # 3.5 mm away
    assert scores.METRICS.keys() <= set(table.columns)


@pytest.mark.slow
def test_the_trainer_of_the_tutorial_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from nnunet_plugin import budgets

    file = tmp_path / "budgets.json"
    file.write_text(_edited("add-a-trainer.md", "nnunet_plugin/budgets.json"), encoding="utf-8")
    monkeypatch.setattr(budgets, "FILE", file)
    monkeypatch.setattr(budgets, "budgets", budgets.budgets.__wrapped__)  # type: ignore[attr-defined]
    source = _edited("add-a-trainer.md", "nnunet_plugin/echosynth_trainers.py")
    cls = _module("trainers", source, monkeypatch).nnUNetTrainerEchoSynth_sgd
    assert cls.__name__ in budgets.budgets()
    trainer = cls.__new__(cls)
    trainer.network, trainer.num_epochs = torch.nn.Linear(2, 1), 4
    trainer.initial_lr = budgets.budget_of(cls).rate
    optimizer, schedule = trainer.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    schedule.step(2)
    assert 0 < optimizer.param_groups[0]["lr"] < trainer.initial_lr
