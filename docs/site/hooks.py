"""What the site adds to the pages in docs/: the pictures of figures/, and a page for each room.

The pages stand beside figures/ and refer to it as ``../figures/NAME.png``, so that they also read
in an editor or on a forge. A page of the reference is made for each public room; it lists the names
of its ``__all__``, so that a new public name is there by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import sigprop

TOP = Path(__file__).resolve().parents[2]
_PICTURE = re.compile(r"\]\(\.\./(figures/[\w.-]+)\)")
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([\w.]+)`")


def reference() -> dict[str, list[str]]:
    """Page of the reference → the public names on it: the top first, then the rooms."""
    pages = {"sigprop": [name for name in sigprop.__all__ if callable(getattr(sigprop, name))]}
    for room in sorted(found.name for found in pkgutil.iter_modules(sigprop.__path__)):
        if not room.startswith("_") and room != "cli":
            module = importlib.import_module(f"sigprop.{room}")
            pages[module.__name__] = getattr(module, "__all__", None) or [
                name
                for name, value in vars(module).items()
                if getattr(value, "__module__", "") == module.__name__ and name[0] != "_"
            ]
    return pages


def written(page: str, name: str, shown: set[str]) -> str:
    """What stands on a page for one of its names; the whole docstring on the first page only."""
    value = getattr(importlib.import_module(page), name)
    if not isinstance(value, type | FunctionType):
        return f"- `{name}`" + ("" if hasattr(value, "__path__") else " (a value)")
    home = f"{value.__module__}.{value.__qualname__}"
    text = f"- `{name}`: [{home}][{home}]" if home in shown else f"::: {home}"
    shown.add(home)
    return text


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The reference in the navigation."""
    for entry in config.nav or []:
        if "API" in entry:
            entry["API"] = [{page: f"api/{page}.md"} for page in reference()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pictures and the pages of the reference, added to those of docs/."""
    for picture in sorted((TOP / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{picture.name}", abs_src_path=str(picture)))
    shown: set[str] = set()
    for page, names in reference().items():
        about = (importlib.import_module(page).__doc__ or "").replace("``", "`").split("\n\n")[0]
        parts = [f"# {page}", about, *(written(page, name, shown) for name in names)]
        files.append(File.generated(config, f"api/{page}.md", content="\n\n".join(parts)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """``../figures/`` as the site has it."""
    return _PICTURE.sub(r"](\1)", markdown)


class Roles(griffe.Extension):
    """``:func:`name``` in a docstring, which Markdown does not know, as code; examples likewise."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub("Examples:", obj.docstring.value.replace("``", "`"))
            obj.docstring.value = _ROLE.sub(lambda met: f"`{met[1]}`", text)
