"""Links of the pages that are read in the repository, and what the README promises."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [path for pattern in ("*.md", "docs/**/*.md", "*/README.md") for path in ROOT.glob(pattern)]
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def links(text):
    """Return the targets of Markdown links and images that are not addresses on the web."""
    found = re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("", text))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text):
    """Return the anchors of a page's headings, as MkDocs and GitHub make them of plain titles."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", sorted(set(PAGES)), ids=lambda path: str(path.relative_to(ROOT)))
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


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120
