"""Parts that the reports share: style, embedded pictures, and facts about the machine."""

import base64
import importlib.metadata
import os
import pathlib
import platform

import jinja2

_FOLDER = pathlib.Path(__file__).parent
_PACKAGES = ("cigan", "tensorflow", "keras", "tensorflow-datasets", "scikit-learn", "numpy")


def render(template: str, **values) -> str:
    """Returns a self-contained HTML page, in which values are escaped.

    Args:
        template: name of a file in this folder that extends page.html.jinja.
        **values: variables of the template; `title`, `lead` and `settings` are required.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["embedded"] = _embedded
    return environment.get_template(template).render(machine=_machine(), **values)


def duration(seconds: float) -> str:
    """Returns a duration in words, such as '5 min 40 s'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _machine() -> list[tuple[str, str]]:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            versions.append((package, "from the checkout, not installed"))
    return [
        ("CPU cores", str(os.cpu_count())),
        ("System", platform.platform()),
        ("Python", platform.python_version()),
        *versions,
    ]
