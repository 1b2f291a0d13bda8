"""Commands of docs/scale.md: each is one that there is, with options and values that it takes."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
import yaml

from cli.main import app
from tests.cli.terminal import ROOT

TEXT = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
# What the shell or Slurm would put in.
VALUES = {"$SLURM_PROCID": "0", "$SLURM_NTASKS": "8", "$JOB_COMPLETION_INDEX": "0", "$k": "0", "\\": ""}


def _words(line: str) -> list[str]:
    """The command's own words: from its name to what the shell has next."""
    for name, value in VALUES.items():
        line = line.replace(name, value)
    words = shlex.split(re.split(r"[;|>]|&&", line)[0].rstrip("'\""), comments=True)
    return words


def _commands() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:echosynth|-m cli\.main) (.*)", line) for line in lines]
    job = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)[0])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (pod,) = container["args"]
    return [_words(m[1]) for m in [*found, re.search(r"echosynth (.*)", pod)] if m and "pip install" not in m.string]


def test_there_are_commands() -> None:
    assert {words[0] for words in _commands()} == {
        "benchmark",
        "plan",
        "sweep",
        "generate",
        "train",
        "make-maps",
        "verify",
    }
    assert sum("--shard" in words for words in _commands()) == 3


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_it_is_taken(words: list[str]) -> None:
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    context = command.make_context(words[0], words[1:])  # raises a usage error for what is not
    assert context.params


def test_the_job_is_indexed_by_as_many_as_the_shards() -> None:
    job = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)[0])
    (pod,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert f"--shard $JOB_COMPLETION_INDEX/{job['spec']['completions']}" in pod
