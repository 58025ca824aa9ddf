"""Names and docstrings of the whole package: no class name twice, everything public documented."""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_walls import PACKAGE, modules


def class_homes(package: Path) -> dict[str, list[str]]:
    """Name of a class → the modules that define one of that name, nested and private ones too."""
    homes: dict[str, list[str]] = {}
    for module, path in sorted(modules(package).items()):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    return homes


def undocumented(package: Path) -> list[str]:
    """Public modules' functions and classes, and their public methods, that have no docstring."""
    return [
        f"{module}.{name}"
        for module, path in sorted(modules(package).items())
        for name, node in _public(ast.parse(path.read_text(encoding="utf-8")))
        if not ast.get_docstring(node)
    ]


Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public(home: ast.AST, prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Functions and classes that a module or a class defines, also under an ``if``."""
    for node in ast.iter_child_nodes(home):
        if not isinstance(node, Documented):
            if isinstance(node, ast.If | ast.Try):
                yield from _public(node, prefix)
            continue
        if node.name.startswith("_") or _needs_none(node):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from _public(node, f"{prefix}{node.name}.")


def _needs_none(node: Documented) -> bool:
    """Whether it is an overload or the setter of a property, documented at the other place."""
    return any(
        ast.unparse(decorator).split(".")[-1] in ("overload", "setter")
        for decorator in node.decorator_list
    )


def test_no_two_classes_share_a_name():
    twice = {name: homes for name, homes in class_homes(PACKAGE).items() if len(homes) > 1}
    assert twice == {}


def test_everything_public_is_documented():
    assert undocumented(PACKAGE) == []


def planted(folder: Path, text: str) -> Path:
    package = folder / "house"
    package.mkdir()
    (package / "__init__.py").write_text('"""A house."""\n', encoding="utf-8")
    (package / "room.py").write_text(textwrap.dedent(text), encoding="utf-8")
    return package


def test_a_name_that_stands_twice_is_seen(tmp_path):
    package = planted(tmp_path, "class A: ...\nclass B:\n    class C: ...")
    (package / "other.py").write_text("def f():\n    class C: ...\nclass A: ...", encoding="utf-8")
    assert class_homes(package) == {
        "A": ["house.other", "house.room"],
        "B": ["house.room"],
        "C": ["house.other", "house.room"],
    }


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("def f(): ...", ["f"]),
        ("async def f(): ...", ["f"]),
        ("class A: ...", ["A"]),
        ('class A:\n    """An A."""\n    def f(self): ...', ["A.f"]),
        ('class A:\n    """An A."""\n    @property\n    def f(self): ...', ["A.f"]),
        ('class A:\n    """An A."""\n    class B:\n        def f(self): ...', ["A.B", "A.B.f"]),
        ("if True:\n    def f(): ...", ["f"]),
        ('def f():\n    ""', ["f"]),
        ('def f():\n    """Done."""\n    def g(): ...', []),
        ('class A:\n    """An A."""\n    def _f(self): ...\n    def __init__(self): ...', []),
        ("class _A:\n    def f(self): ...\ndef _f(): ...", []),
        ("from typing import overload\n@overload\ndef f(x: int): ...", []),
    ],
)
def test_a_missing_docstring_is_seen(tmp_path, text, missing):
    assert undocumented(planted(tmp_path, text)) == [f"house.room.{name}" for name in missing]
