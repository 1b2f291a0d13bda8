"""What the docs site shows beside docs/*.md: pages made of files that lie elsewhere, and links that lead there.

A hook of mkdocs, see mkdocs.yml. Documents link to files of the repository as GitHub shows them; the site has docs/ alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FROM_ROOT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
NOTEBOOK = "tutorial.ipynb"
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of `FROM_ROOT` and of the notebook."""
    for name, page in FROM_ROOT.items():
        text = _LINK.sub(_from_root, (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    notebook = json.loads((ROOT / "docs" / NOTEBOOK).read_text(encoding="utf-8"))
    files.append(File.generated(config, "tutorial.md", content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/, and to the notebook, lead to the site's page of that file, or become plain text."""
    depth = page.file.src_uri.count("/")

    def inside(match: re.Match[str]) -> str:
        text, address, anchor = match[1], match[2], match[3] or ""
        if address == NOTEBOOK and not depth:
            return f"[{text}](tutorial.md{anchor})"
        up = "../" * (depth + 1)
        if not address.startswith(up):
            return match[0]
        target = FROM_ROOT.get(address.removeprefix(up))
        return f"[{text}]({'../' * depth}{target}{anchor})" if target else text

    return _LINK.sub(inside, markdown)


def _from_root(match: re.Match[str]) -> str:
    """A link of a file in the repository's root, as one of a page in docs/."""
    text, address, anchor = match[1], match[2], match[3] or ""
    if re.match(r"[a-z]+:", address):
        return match[0]
    inside = address.removeprefix("docs/") if address.startswith("docs/") else FROM_ROOT.get(address)
    return f"[{text}]({inside}{anchor})" if inside else text


def notebook_page(notebook: dict[str, Any]) -> str:
    """Markdown of a notebook: its text, its code, and what stands under the code."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts += [f"```python\n{source}\n```", *(_output(o) for o in cell["outputs"])]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    """One output: text in a block of its own, a picture inline."""
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output["data"]
    if "image/png" in data:
        alternative = "".join(data["text/plain"])
        return f"![{alternative}](data:image/png;base64,{''.join(data['image/png']).strip()})"
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
