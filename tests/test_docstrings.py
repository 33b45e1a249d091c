"""Modules, public classes and public module-level functions have docstrings; methods need none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for package in ("stores", "lila_cues", "lila_train") for path in (ROOT / package).rglob("*.py"))


def undocumented(module: ast.Module) -> list[str]:
    """Return the public classes and functions of a module that have no docstring."""
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in module.body if isinstance(node, defined) and not node.name.startswith("_")]
    return [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_have_docstrings(path: Path) -> None:
    module = ast.parse(path.read_text())
    assert ast.get_docstring(module), "say in a sentence what the module holds"
    missing = undocumented(module)
    assert not missing, f"say what types cannot, in a docstring: {', '.join(missing)}"


def test_undocumented_names_are_found() -> None:
    module = ast.parse(
        "def documented():\n '''Yes.'''\ndef bare(): ...\ndef _private(): ...\nclass Bare:\n def method(self): ..."
    )
    assert undocumented(module) == ["bare", "Bare"]
