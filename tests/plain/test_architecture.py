"""The layout that docs/architecture.md describes, read from the source: nothing is imported."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bert_of_theseus"

# From the bottom up: a module imports those above it in this list, and a folder counts as one.
ORDER = [
    *("startup", "validation", "locks", "defaults", "order", "files"),
    *("backend", "conditional", "distribution", "optimizer"),
    *("layers", "noise", "wrappers", "schedules", "callbacks", "distillation", "heads"),
    *("_bert4keras", "encoders", "models", "bert4keras", "saving"),
    *("statistics", "training", "measure", "table", "plots", "compressed", "method", "recipe"),
    *("data", "tasks", "checkpoints", "deploy", "pretrained", "commands", "__main__"),
]
MAY_KNOW_A_HOST = {"_bert4keras", "encoders", "checkpoints"}
MAY_ASK_WHICH_KERAS = {"backend", "conditional", "distribution", "optimizer", "_bert4keras"}
LONGEST_FUNCTION = 80  # lines of code, without docstring and comments
LONGEST_FILE = 450

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
# The face imports every module on first use and is imported by none, but for its version.
del TREES["__init__"]


def room(name):
    return name.split(".")[0]


def imported(name):
    """Full names of what a module imports, wherever in it, without `bert_of_theseus.`."""
    folder = ["bert_of_theseus", *name.split(".")[:-1]]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from names


def imported_modules(name):
    """Modules of the package that a module of it imports."""
    found = set()
    for full in imported(name):
        parts = full.split(".")
        if parts[0] != "bert_of_theseus":
            continue
        for end in range(len(parts), 1, -1):
            module = ".".join(parts[1:end])
            if module in TREES or f"{module}.__init__" in TREES:
                found.add(module if module in TREES else f"{module}.__init__")
                break
    return found - {name}


def test_every_module_has_its_place():
    assert {room(name) for name in TREES} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


def test_imports_point_one_way():
    wrong = [
        f"{name} imports {module}"
        for name in TREES
        for module in imported_modules(name)
        if ORDER.index(room(module)) > ORDER.index(room(name))
    ]
    assert not wrong
    # The bottom of the list needs no Keras.
    assert not imported_modules("schedules")
    assert "backend" in imported_modules("layers")  # so imports are found at all


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: imported_modules(name) for name in TREES}
    done = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for module in sorted(graph[name]):
                visit(module, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def strings(tree):
    """All strings without a space, so no docstring and no message."""
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [text for text in constants if isinstance(text, str) and " " not in text]


@pytest.mark.parametrize("host", ["bert4keras", "keras_hub"])
def test_few_modules_know_a_host(host):
    found = {name for name in TREES if any(full.split(".")[0] == host for full in imported(name))}
    assert found
    assert {room(name) for name in found} <= MAY_KNOW_A_HOST
    # Nor does any look a host's module up by its name, but for `saving`, which reads it in files.
    found = {name for name, tree in TREES.items() for text in strings(tree) if f"{host}." in text}
    assert {room(name) for name in found} <= MAY_KNOW_A_HOST | {"saving"}


def test_few_modules_ask_which_keras_it_is():
    found = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if getattr(node, "id", getattr(node, "attr", None)) in ("KERAS_2", "BACKEND"):
                found.add(name)
    assert "conditional" in found
    assert found <= MAY_ASK_WHICH_KERAS


def code_lines(path):
    """Numbers of the lines that hold code: no docstring, no comment, not empty."""
    source = path.read_text(encoding="utf-8")
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    return {
        line
        for token in tokens
        if token.type not in ignored
        for line in range(token.start[0], token.end[0] + 1)
    } - docstrings


def test_functions_and_files_are_short():
    too_long = []
    for name, path in FILES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_FILE:
            too_long.append(f"{name}: {lines} lines")
        code = code_lines(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                count = len(code & set(range(node.lineno, node.end_lineno + 1)))
                if count > LONGEST_FUNCTION:
                    too_long.append(f"{name}.{node.name}: {count} lines of code")
    assert not too_long
