"""The package and its pages are written in plain English, and every public name is documented.

`python tests/test_prose.py FILE...` prints the findings in these files, and how often each counted idiom occurs.
"""

import ast
import io
import itertools
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = sorted((ROOT / "pneumoseg").rglob("*.py"))
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "pneumoseg/**/*.md",
        "experiments/*.*",
        "benchmarks/*.py",
        "notebooks/*.ipynb",
    )
    for path in ROOT.glob(pattern)
    if path.suffix in (".md", ".yaml", ".py", ".ipynb") and path.name != "CHANGELOG.md"
)

_UNIT = (
    r"(image|row|fold|epoch|bundle|batch|file|step|second|patient|phase|pixel|run|seed|class|case|network|line|stage|"
    r"grid|area|copy|cause|group|component|threshold|mask|column|call|set|side|arm|variant|rule|weight|layer|metric)"
)
_NOUN = r"(?!(with|without|for|in|of|on|to|by|at|or|and|where|that|is|has|lacks|counts|from)\b)\w+"
_COUNTED = (
    rf"(one|two|three|four|five|\d+|some|many) ({_NOUN} )?{_NOUN}|"
    r"(an?|each) (PNG|bundle|column|row|file|value|number|weight|map)|"
    r"images|rows|values|seconds|milliseconds|ms|s|batches|networks|bundles|steps"
)
_SAVED = r"(saved|kept|left|read|said|known|written|shown|drawn|found|given|there|asked|meant|made|stored)"
REFUSED = {
    # One value "an image": the article where English has "per". "Once an epoch" is English.
    rf"\b({_COUNTED}) an? {_UNIT}\b(?! at a time)": "one row per image",
    r"\banew\b": "again",
    r"\bbesides?\b": "next to, in addition to",
    r"(?<!there )\b(is|are|was|were) no (?!longer\b|more\b|less\b|better\b|worse\b)": "is not a",
    r"\bwhat (it|is|was)\b": "name the thing: the value, the content",
    rf"\bwhat (are|were|has been) {_SAVED}\b": "name the thing: the value, the content",
    r"\bwhat other\b": "name the thing: other values",
    r"\blikewise\b": "repeat the sentence",
    r"\bpass(es|ed)? that on\b": "name the thing that is passed on",
    r"\bwhose \w+ each\b": "the owner of each ...",
    # Not the last part of a DICOM transfer syntax.
    r"(?<=[\s(=])\.(?!(50|51|57|70|80|81|90|91)\b)\d+(?![\w%])": "0.5",
}
# In docstrings only: how they begin, and entries of `Args:` that send the reader elsewhere.
REFUSED_IN_DOCSTRINGS = {
    r"\A(What|Whose|Which|Where|When|How|By how|Between which|Of|Beside)\b": "begin with a verb or a noun phrase",
    r"^ +\*{0,2}\w+: (The \w+'s\.|As (for )?`)": "repeat the description",
}


class Text(NamedTuple):
    """A piece of prose of a file, from a line on."""

    path: Path
    line: int
    text: str
    is_docstring: bool = False


def texts_of(path: Path) -> Iterator[Text]:
    """Yield the prose of a file: docstrings, comments and strings, or all but the code of a page."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _python_texts(path, content)
    elif path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(content)["cells"], start=1):
            if cell["cell_type"] == "markdown":
                yield Text(path, number, "".join(cell["source"]))
    elif path.suffix == ".yaml":
        yield from _joined(path, [(n, line) for n, line in enumerate(content.splitlines(), 1) if "#" in line])
    else:
        yield Text(path, 1, re.sub(r"^```.*?^```|`[^`\n]+`", _blank, content, flags=re.DOTALL | re.MULTILINE))


def _blank(code: re.Match[str]) -> str:
    return "\n" * code[0].count("\n") or "`"


def _python_texts(path: Path, content: str) -> Iterator[Text]:
    tree = ast.parse(content)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[0].value if node.body and isinstance(node.body[0], ast.Expr) else None
            if isinstance(docstring, ast.Constant) and isinstance(docstring.value, str):
                docstrings.add(docstring)
                yield Text(path, docstring.lineno, docstring.value, is_docstring=True)
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {part for node in joined for part in ast.walk(node)} - set(joined)
    for node in joined:
        yield Text(path, node.lineno, "".join(_part(value) for value in node.values))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings | parts:
            yield Text(path, node.lineno, node.value)
    tokens = tokenize.generate_tokens(io.StringIO(content).readline)
    yield from _joined(path, [(t.start[0], t.string) for t in tokens if t.type == tokenize.COMMENT])


def _part(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "X"


def _joined(path: Path, comments: list[tuple[int, str]]) -> Iterator[Text]:
    """Yield comments, those of consecutive lines as one text."""
    block: list[tuple[int, str]] = []
    for number, line in [*comments, (-1, "")]:
        if block and number != block[-1][0] + 1:
            yield Text(path, block[0][0], "\n".join(text.partition("#")[2] for _, text in block))
            block = []
        block.append((number, line))


def findings(text: Text) -> Iterator[str]:
    """Yield a message for each refused phrase of a text."""
    in_one_line = " ".join(text.text.split())
    for pattern, better in REFUSED.items():
        for match in re.finditer(pattern, in_one_line, flags=re.IGNORECASE):
            words_before = len(in_one_line[: match.start()].split(" ")) - 1
            yield _message(text, _start_of_word(text.text, words_before), match[0], better)
    for pattern, better in REFUSED_IN_DOCSTRINGS.items() if text.is_docstring else ():
        for match in re.finditer(pattern, text.text, flags=re.MULTILINE):
            yield _message(text, match.start(), match[0], better)


def _start_of_word(text: str, number: int) -> int:
    return next(itertools.islice(re.finditer(r"\S+", text), number, None)).start()


def _message(text: Text, position: int, phrase: str, better: str) -> str:
    line = text.line + text.text.count("\n", 0, position)
    return f"{text.path}:{line}: {phrase.strip()!r}; better: {better}"


def per_10000_words(texts: list[str]) -> dict[str, float]:
    """Return how often the counted idioms occur in 10,000 words."""
    counted = {
        '"one row an image"': next(iter(REFUSED)),
        '"what it / is / was"': r"\bwhat (it|is|was)\b",
        '"per"': r"\bper\b",
    }
    whole = " ".join(" ".join(texts).split())
    words = max(1, len(re.findall(r"[A-Za-z']+", whole)))
    return {
        name: 1e4 * len(re.findall(pattern, whole, flags=re.IGNORECASE)) / words for name, pattern in counted.items()
    }


def public_without_docstring(path: Path) -> Iterator[str]:
    """Yield the public modules, classes, functions and methods of a file that have no docstring."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    if ast.get_docstring(module) is None:
        yield f"{path}: module"
    yield from _undocumented(module, str(path))


def _undocumented(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{prefix}: {node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(node, f"{prefix}: {node.name}")


@pytest.mark.parametrize("path", [*PYTHON, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_refused_idioms_do_not_occur(path):
    found = [message for text in texts_of(path) for message in findings(text)]
    assert not found, "\n".join(found)


# Sentences of this package as it once was.
@pytest.mark.parametrize(
    "docstring",
    [
        "Between which bounds a score would lie on other images of the same kind: the bootstrap over patients.",
        "Whose image each row is, for `bootstrap_interval`: the patient where one is known, else the image itself.",
        "What an earlier process that finished the same run found, so that going on with it is no mistake.",
        "Give the optimizer what was saved of it, and the callbacks again, which may forget as a training begins.",
        "End a fit after one epoch, and pass that on to callbacks whose training goes on.",
        "Kept predictions and a rule to scores, tables and curves, always beside the floor of predicting nothing.",
        "What a rule makes of each image, and where its lost Dice went.",
        "What every part of an experiment file keeps to: no unknown key, no silent conversion, no later change.",
        "Build it.\n\n    Args:\n        arguments: The builder's.\n",
        "kept holds what other networks than those in pipeline say, or mirrored otherwise: predict anew",
        "Read a mask.\n\n    Raises:\n        ValueError: As `decode`, saying in which row.\n",
        "Index a folder into a manifest: one row an image.",
        "A sample weight is one number an image.",
        "Write a PNG an image.",
        "Images a batch.",
        "It takes 9.3 s a step.",
        "The path is no manifest.",
        "Above a threshold of .5.",
    ],
)
def test_old_sentences_are_refused(docstring):
    assert list(findings(Text(Path("old.py"), 1, docstring, is_docstring=True)))


@pytest.mark.parametrize(
    "docstring",
    [
        "Confidence intervals by bootstrap resampling of patients.",
        "Return the resampling unit of each row: the patient ID, or the image ID if the patient is unknown.",
        "Restore the optimizer state, and the callback counters that `on_train_begin` has just reset.",
        "Base class of all settings: rejects unknown keys, validates types strictly, and is immutable.",
        "Score the validation images once an epoch. There is no GPU, and it is no longer used.",
        "Write one row per image, 0.5 seconds per step, and read the image a batch at a time.",
        "Return a mask, or None for an image without one.\n\n    Args:\n        mask: Mask, bool, of shape (H, W).\n",
    ],
)
def test_plain_sentences_pass(docstring):
    assert not list(findings(Text(Path("new.py"), 1, docstring, is_docstring=True)))


def test_line_of_a_finding_in_each_kind_of_text(tmp_path):
    path = tmp_path / "old.py"
    path.write_text('"""Numbers.\n\nRead anew.\n"""\nnumber = 1  # again and\n# anew\ntext = f"{number} anew"\n')
    lines = [message.split(":")[1] for text in texts_of(path) for message in findings(text)]
    assert lines == ["3", "7", "6"]
    page = tmp_path / "old.md"
    page.write_text("Read it.\n\n```\nanew\n```\n\nOr `anew`, or\nanew.\n")
    assert [message.split(":")[1] for text in texts_of(page) for message in findings(text)] == ["8"]


def test_idioms_are_counted_in_10000_words():
    assert per_10000_words(["One row an image. " * 2 + "It is one per image or what it is. " * 2]) == pytest.approx(
        {'"one row an image"': 1e4 * 2 / 26, '"what it / is / was"': 1e4 * 2 / 26, '"per"': 1e4 * 2 / 26}
    )


def test_every_public_name_is_documented():
    missing = [name for path in PYTHON for name in public_without_docstring(path)]
    assert not missing, "\n".join(missing)


def test_undocumented_names_are_found(tmp_path):
    path = tmp_path / "bare.py"
    path.write_text("class A:\n    def run(self):\n        pass\n\n    def _hidden(self):\n        pass\n")
    assert list(public_without_docstring(path)) == [f"{path}: module", f"{path}: A", f"{path}: A: run"]


if __name__ == "__main__":
    chosen = [Path(name) for name in sys.argv[1:]] or [*PYTHON, *PAGES]
    everything = [text for path in chosen for text in texts_of(path)]
    for message in itertools.chain.from_iterable(map(findings, everything)):
        print(message)
    for idiom, frequency in per_10000_words([text.text for text in everything if text.is_docstring]).items():
        print(f"{idiom}: {frequency:.1f} in 10,000 words of docstrings")
