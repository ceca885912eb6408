"""Every public function has type hints, and says what its arguments are from three parameters on."""

import ast
import re

import pytest

from conftest import ROOT

FILES = sorted([*ROOT.glob("*.py"), *ROOT.glob("utils/**/*.py")])


def public_functions(tree):
    """Functions of a module and methods of its classes that others may call; not the functions inside functions."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name.endswith("__")):
            yield node


def faults(function):
    """What a function lacks, in words."""
    known = function.args
    parameters = [a for a in [*known.posonlyargs, *known.args, *known.kwonlyargs] if a.arg not in ("self", "cls")]
    for parameter in [*parameters, known.vararg, known.kwarg]:
        if parameter is not None and parameter.annotation is None:
            yield f"parameter {parameter.arg} has no type hint"
    if function.returns is None and function.name not in ("__init__", "__post_init__"):
        yield "the result has no type hint"
    described = ast.get_docstring(function)  # a method without one does what its class inherits
    if described and len(parameters) >= 3:
        described = described.partition("Args:")[2]
        for parameter in parameters:
            if not re.search(rf"^[^:\n]*\b{parameter.arg}\b[^:\n]*:", described, re.MULTILINE):
                yield f"Args does not say what {parameter.arg} is"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hints_and_args(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [f"{path}:{f.lineno} {f.name}: {fault}" for f in public_functions(tree) for fault in faults(f)]
    assert not found, "\n".join(found)
