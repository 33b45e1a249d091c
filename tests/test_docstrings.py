"""Everything public says what it is: modules, classes, functions, methods and what a protocol asks for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for package in ("stores", "lila_cues", "lila_train") for path in (ROOT / package).rglob("*.py"))


def silent(node: ast.Module | ast.ClassDef, within: str = "") -> Iterator[str]:
    """Public names without a docstring, a class before its methods; what is nested in a function is not public."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            if not ast.get_docstring(child):
                yield within + child.name
            if isinstance(child, ast.ClassDef):
                yield from silent(child, f"{within}{child.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_has_a_docstring(path: Path) -> None:
    module = ast.parse(path.read_text())
    assert ast.get_docstring(module), "say in a sentence what the module holds"
    missing = set(silent(module))
    assert not missing, f"say what types cannot, in a docstring: {', '.join(sorted(missing))}"


def test_names_without_a_docstring_are_found() -> None:
    module = ast.parse(
        "def told():\n '''Yes.'''\ndef bare(): ...\nclass Kept:\n def method(self): ...\n def _own(self): ..."
    )
    assert list(silent(module)) == ["bare", "Kept", "Kept.method"]
