"""The templates of the pages in this folder."""

from jinja2 import Environment, PackageLoader, Template


def template(name: str) -> Template:
    """Return one of the templates of this folder, which escapes whatever is put into it.

    Args:
        name: Name of the file.
    """
    environment = Environment(
        loader=PackageLoader("pneumoseg.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    return environment.get_template(name)


def format_number(value: float, form: str = ".3f") -> str:
    """Return a number as text; a dash stands for NaN.

    Args:
        value: The number.
        form: Format of the number.

    Example:
        >>> format_number(0.5), format_number(float("nan"))
        ('0.500', '–')
    """
    return "–" if value != value else format(value, form)
