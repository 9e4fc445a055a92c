"""Measures the shape of the code: lines of functions and files, methods of classes, nesting, parameters.

`make measure` prints it; `tests/meta/test_shape.py` holds the bounds. Reads source and imports nothing of it.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
# What a reader must hold in mind: choices and repetitions. A `with` is neither.
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function or method; its docstring does not count as length."""

    place: str
    lines: int
    nesting: int
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Class:
    """One class."""

    place: str
    methods: int


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One source file."""

    place: str
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Everything that was measured."""

    functions: Sequence[Function]
    classes: Sequence[Class]
    files: Sequence[File]


def measure(folders: Sequence[str], root: Path = ROOT) -> Shape:
    """Measures every written Python file below `folders`; generated ones do not count."""
    functions: list[Function] = []
    classes: list[Class] = []
    files: list[File] = []
    for path in _sources(folders, root):
        name = str(path.relative_to(root))
        text = path.read_text()
        files.append(File(place=name, lines=len(text.splitlines())))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, FunctionNode):
                functions.append(_function(node, name))
            elif isinstance(node, ast.ClassDef):
                methods = sum(isinstance(member, FunctionNode) for member in node.body)
                classes.append(Class(place=f"{name}:{node.lineno} {node.name}", methods=methods))
    return Shape(functions=functions, classes=classes, files=files)


def main() -> None:
    """Prints medians, 95th percentiles and maxima for the folders on the command line."""
    shape = measure(sys.argv[1:])
    print(f"{'':22}{'count':>7}{'median':>8}{'p95':>6}{'max':>6}  largest")
    _row("function lines", [(each.lines, each.place) for each in shape.functions])
    _row("function nesting", [(each.nesting, each.place) for each in shape.functions])
    _row("function parameters", [(each.parameters, each.place) for each in shape.functions])
    _row("class methods", [(each.methods, each.place) for each in shape.classes])
    _row("file lines", [(each.lines, each.place) for each in shape.files])


def percentile(values: Sequence[int], share: float) -> int:
    """The value below or at which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0


def _row(title: str, measured: Sequence[tuple[int, str]]) -> None:
    values = [value for value, _ in measured]
    largest, place = max(measured, default=(0, "-"))
    median = statistics.median(values) if values else 0
    print(f"{title:22}{len(values):>7}{median:>8.0f}{percentile(values, 0.95):>6}{largest:>6}  {place}")


def _sources(folders: Sequence[str], root: Path) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            if not path.stem.endswith(("_pb2", "_pb2_grpc")):
                yield path


def _function(node: FunctionNode, file: str) -> Function:
    documented = ast.get_docstring(node) is not None
    first = node.body[1] if documented and len(node.body) > 1 else node.body[0]
    heading = node.body[0].lineno - node.lineno
    lines = heading + (node.end_lineno or node.lineno) - first.lineno + 1
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    parameters = sum(argument.arg not in ("self", "cls") for argument in arguments)
    place = f"{file}:{node.lineno} {node.name}"
    return Function(place=place, lines=lines, nesting=_nesting(node.body), parameters=parameters)


def _nesting(body: Sequence[ast.stmt]) -> int:
    return max((_depth(statement) for statement in body), default=0)


def _depth(node: ast.AST) -> int:
    if isinstance(node, (*(FunctionNode.__args__), ast.ClassDef, ast.Lambda)):
        return 0
    deepest = max((_depth(child) for child in _children(node)), default=0)
    return deepest + isinstance(node, _BLOCKS)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        inside = value if isinstance(value, list) else [value]
        for child in inside:
            # An elif is the same level again, not one deeper.
            if name == "orelse" and isinstance(node, ast.If) and isinstance(child, ast.If) and len(inside) == 1:
                yield from _children(child)
            elif isinstance(child, ast.AST):
                yield child


if __name__ == "__main__":
    main()
