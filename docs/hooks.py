"""Reference pages that are generated while MkDocs builds the site: commands, settings and Python modules."""

import inspect
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel

import pneumoseg
from pneumoseg import config as experiment_files
from pneumoseg.cli import app

ROOT = Path(pneumoseg.__file__).parent
MODULE_PAGE = "reference/api/{}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the modules' pages to the navigation."""
    config.nav.append({"Python modules": [{name: MODULE_PAGE.format(name)} for name in top_level_modules()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each top-level module or subpackage of the package."""
    for name in top_level_modules():
        files.append(File.generated(config, MODULE_PAGE.format(name), content=module_page(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the markers in the handwritten reference pages."""
    generators = {"commands": command_reference, "settings": settings_reference, "exports": export_table}
    for name, generate in generators.items():
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, generate())
    return markdown


def top_level_modules() -> list[str]:
    """Return the names of the package's public modules and subpackages, sorted."""
    modules = [path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("_")]
    packages = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    return sorted(modules + packages)


def module_page(name: str) -> str:
    """Return the page of a module, or of a subpackage and all its public modules."""
    folder = ROOT / name
    if not folder.is_dir():
        return f"# `{name}`\n\n::: pneumoseg.{name}\n    options: {{heading_level: 2, show_root_heading: false}}\n"
    parts = [f"# `{name}`", directive(f"pneumoseg.{name}", folder / "__init__.py")]
    for path in sorted(folder.rglob("*.py")):
        if not path.stem.startswith("_"):
            dotted = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            parts.append(f"## `{dotted.removeprefix('pneumoseg.')}`\n\n{directive(dotted, path)}")
    return "\n\n".join(parts) + "\n"


def directive(dotted: str, path: Path) -> str:
    """Return the mkdocstrings directive that shows a module's docstring and the names it defines itself."""
    module = griffe.visit(path.stem, path, path.read_text(encoding="utf-8"))
    own = [name for name, member in module.members.items() if is_shown(name, member)]
    return f"::: {dotted}\n    options: {{show_root_heading: false, members: {own or 'false'}}}"


def is_shown(name: str, member: griffe.Object | griffe.Alias) -> bool:
    """Tell whether a name is public, defined in the module itself, and documented."""
    return not member.is_alias and not name.startswith("_") and member.has_docstring


def export_table() -> str:
    """Return a table of the names that `import pneumoseg` offers, linked to their documentation."""
    package = griffe.load("pneumoseg", search_paths=[ROOT.parent], allow_inspection=False)
    rows = ["| name | |", "| --- | --- |"]
    for name in sorted(pneumoseg.__all__):
        target = package[name]
        target = target.final_target if target.is_alias else target
        summary = first_line(target.docstring.value if target.docstring else "")
        rows.append(f"| [`pneumoseg.{name}`][{target.path}] | {summary} |")
    return "\n".join(rows)


def command_reference() -> str:
    """Return the documentation of every command, in the order of `pneumoseg --help`."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(command_section(name, command) for name, command in group.commands.items())


def command_section(name: str, command: Any) -> str:
    """Return the help text of one command and the table of its arguments and options."""
    arguments = [f"{parameter.name.upper()}" for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join(["pneumoseg", name, "[OPTIONS]", *arguments])
    rows = [parameter_row(parameter) for parameter in command.params]
    table = "\n".join(["| argument or option | default | |", "| --- | --- | --- |", *rows])
    return f"## `pneumoseg {name}`\n\n{inspect.cleandoc(command.help or '')}\n\n```\n{usage}\n```\n\n{table}"


def parameter_row(parameter: Any) -> str:
    """Return the table row of an argument or option."""
    is_argument = parameter.param_type_name == "argument"
    name = parameter.name.upper() if is_argument else " / ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.required:
        default = "required"
    elif getattr(parameter, "is_flag", False) or parameter.default in (None, ()):
        default = ""
    else:
        default = f"`{parameter.default}`"
    return f"| `{name}` | {default} | {cell(parameter.help or '')} |"


def settings_reference() -> str:
    """Return the tables of all keys of an experiment file, the two kinds of file first, then their parts."""
    models = [value for value in vars(experiment_files).values() if is_settings(value)]
    schemas = [model.model_json_schema() for model in models]
    parts = {name: schema for whole in schemas for name, schema in whole.get("$defs", {}).items()}
    roots = {schema["title"]: schema for schema in schemas if schema["title"] not in parts and is_file(schema)}
    return "\n\n".join(settings_section(name, schema) for name, schema in (roots | dict(sorted(parts.items()))).items())


def is_settings(value: Any) -> bool:
    """Tell whether a module's member is a settings class with fields."""
    return inspect.isclass(value) and issubclass(value, BaseModel) and bool(value.model_fields)


def is_file(schema: dict[str, Any]) -> bool:
    """Tell whether a schema is a whole experiment file: it says its kind."""
    return "kind" in schema["properties"]


def settings_section(name: str, schema: dict[str, Any]) -> str:
    """Return the description of one settings class and the table of its keys."""
    classes = [base for base in getattr(experiment_files, name).__mro__ if issubclass(base, BaseModel)]
    text, _ = split_attributes(schema.get("description", ""))
    descriptions = {key: said for base in reversed(classes) for key, said in attributes_of(base).items()}
    required = schema.get("required", [])
    rows = ["| key | meaning, value and default |", "| --- | --- |"]
    for key, field in schema["properties"].items():
        default = "required" if key in required else f"default `{yaml_value(field.get('default'))}`"
        description = field.get("description") or descriptions.get(key, "")
        rows.append(f"| `{key}` | {cell(description)} *{describe(field)}; {default}* |")
    return "\n\n".join([f"## {name}", text, "\n".join(rows)])


def attributes_of(model: type[BaseModel]) -> dict[str, str]:
    """Return the descriptions in the `Attributes:` section of a class' own docstring, by key."""
    return split_attributes(inspect.cleandoc(model.__dict__.get("__doc__") or ""))[1]


def split_attributes(docstring: str) -> tuple[str, dict[str, str]]:
    """Return a docstring's prose, and the descriptions in its `Attributes:` section by name."""
    prose: list[str] = []
    descriptions: dict[str, str] = {}
    for section in griffe.Docstring(docstring).parse("google"):
        if section.kind is griffe.DocstringSectionKind.attributes:
            descriptions |= {attribute.name: attribute.description for attribute in section.value}
        elif section.kind is griffe.DocstringSectionKind.text:
            prose.append(section.value)
    return "\n\n".join(prose), descriptions


def describe(schema: dict[str, Any]) -> str:
    """Return a JSON schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(describe(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{yaml_value(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return " ".join(["list of", describe(schema["items"]), *length(schema)])
    words = {"integer": "whole number", "boolean": "`true` or `false`", "string": "text", "null": "`null`"}
    return " ".join([words.get(schema["type"], schema["type"]), *bounds(schema)])


def length(schema: dict[str, Any]) -> Iterator[str]:
    """Yield how many items a list must have."""
    least, most = schema.get("minItems"), schema.get("maxItems")
    if least is not None:
        yield f"({least} items)" if least == most else f"(at least {least})"


def bounds(schema: dict[str, Any]) -> Iterable[str]:
    """Return the range of a number in words."""
    names = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
    said = [f"{word} {schema[key]:g}" for key, word in names.items() if key in schema]
    return [" and ".join(said)] if said else []


def yaml_value(value: Any) -> str:
    """Return a default as it is written in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def first_line(docstring: str) -> str:
    """Return the summary line of a docstring."""
    return cell(docstring.strip().partition("\n\n")[0])


def cell(text: str) -> str:
    """Return a text that fits into one cell of a table."""
    return " ".join(textwrap.dedent(text).split()).replace("|", "\\|")
