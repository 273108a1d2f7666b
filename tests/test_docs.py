"""Links, commands and files that the pages of the repository name."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from pneumoseg.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted({path for pattern in ("*.md", "docs/**/*.md", "*/README.md") for path in ROOT.glob(pattern)})
PRESENT_PAGES = [path for path in PAGES if path.name != "CHANGELOG.md"]  # which tells of earlier commands, too
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def links(text):
    """Return the targets of Markdown links and images that are not addresses on the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("", text))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text):
    """Return the anchors of a page's headings, as MkDocs and GitHub make them of plain titles."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target in links(page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page}: {target} does not exist"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{page}: {target} has no such heading"


def test_links_and_headings_are_found():
    text = "# Table 2: *how* small?\n[a](b.md#c) ![d](e.png) [f](https://g.h) `[i](j)`\n```\n[k](l)\n# m\n```\n"
    assert links(text) == ["b.md#c", "e.png"]
    assert anchors(text) == {"table-2-how-small"}


def code_of(text):
    """Return the lines of a page's code blocks, and its code within sentences."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    sentences = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [*lines, *re.findall(r"`([^`\n]+)`", sentences)]


def commands(text):
    """Return the words of each `pneumoseg COMMAND ...` of a page."""
    matches = [re.match(r"(?:\.venv/bin/)?pneumoseg ([a-z][^#]*)", code) for code in code_of(text)]
    return [shlex.split(match[1]) for match in matches if match]


def problems(words):
    """Return the command or options that the command line does not have."""
    known = typer.main.get_command(app).commands
    if words[0] not in known:
        return [words[0]]
    options = {option for parameter in known[words[0]].params for option in parameter.opts + parameter.secondary_opts}
    return [word for word in words if word.startswith("--") and word not in options | {"--help"}]


@pytest.mark.parametrize("page", PRESENT_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(page):
    text = page.read_text(encoding="utf-8")
    wrong = [(words, problems(words)) for words in commands(text) if problems(words)]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_targets_and_experiments_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [re.match(r"make ([a-z-]+)", code) for code in code_of(text)]
    assert {match[1] for match in named if match} <= targets
    files = set(re.findall(r"(?:classifier|segmenter|demo|generated)_[a-z0-9_]+\.yaml", text))
    assert not {name for name in files if not (ROOT / "experiments" / name).exists()}


def test_commands_are_found():
    block = "```\npneumoseg tune --predictions P \\\n    --oops 1  # why\nmake it\n```\n"
    index, tune = sorted(commands("pneumoseg is `pneumoseg index A B`\n" + block + "pneumoseg was\n"))
    assert index == ["index", "A", "B"]
    assert tune == ["tune", "--predictions", "P", "--oops", "1"]
    assert problems(tune) == ["--oops"]
    assert problems(["conquer"]) == ["conquer"]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120
