"""One-line mutants of a module: a comparison, an operator, a number or a call changed; one for each place where it can be."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path

COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
JOINED = {ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
CALLED = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "ones_like": "zeros_like",
    "argsort": "argmax",
    "mean": "sum",
    "sum": "mean",
}
SILENT = (ast.Raise, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr, ast.arg)
"""Nodes that are left alone: words of errors, annotations, declarations of numbers with their source."""


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that can be changed, in the order of the source."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, SILENT):
            continue
        if isinstance(child, ast.FunctionDef):
            yield from (place for line in child.body for place in places(ast.Module([line], [])))
            continue
        if isinstance(child, ast.Call) and "UserError" in ast.dump(child.func):
            continue
        if change(copy.deepcopy(child)):
            yield child
        yield from places(child)


def change(node: ast.AST) -> str:
    """Change a node in place; what was done, or nothing where this node cannot be changed."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        node.ops[0] = COMPARED[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED | JOINED:
        node.op = (COMPUTED | JOINED)[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = JOINED[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        node.value = node.value + 1 if isinstance(node.value, int) else node.value * 1.5 + 0.1
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Attribute) and node.attr in CALLED:
        node.attr = CALLED[node.attr]
    elif isinstance(node, ast.Name) and node.id in CALLED:
        node.id = CALLED[node.id]
    else:
        return ""
    return ast.unparse(node)


def mutants(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, what stands there now, source) of every mutant of a module."""
    tree = ast.parse(path.read_text())
    for number, place in enumerate(places(tree)):
        changed = copy.deepcopy(tree)
        target = next(node for index, node in enumerate(places(changed)) if index == number)
        before = ast.unparse(target)
        after = change(target)
        yield place.lineno, f"{before} -> {after}", ast.unparse(ast.fix_missing_locations(changed))
