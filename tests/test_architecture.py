"""The house: imports point down, the picture in the docs is what they are, and so is its table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "jetfold"
DOCS = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

FRAMEWORKS = ("torch", "jax")


def modules() -> dict[str, Path]:
    """Every file of the package by its name there: "core.jet"; "core" is core/__init__.py."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]  # the roof: it imports what is public
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """The modules of the package that a module imports, at its top or in a function."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
        base = [part for part in base if part]
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            found.add(whole if whole in MODULES else ".".join(base))
    return {other for other in found if other and other != name}


IMPORTS = {name: imported(name) for name in MODULES}


def picture() -> list[list[str]]:
    """The floors from the top: the modules of each line of the picture, as they stand there."""
    block = re.search(r"```floors\n(.*?)```", DOCS, re.DOTALL)
    assert block, "docs/architecture.md has no block ```floors"
    floors: list[list[str]] = []
    for line in block[1].splitlines():
        names = line.split("#")[0].split()
        folder, floor = "", []
        for name in names:
            if name.endswith("/"):
                folder = name[:-1] + "."
                seen = any(name[:-1] in above for above in floors)  # a folder on several floors
                floor += [name[:-1]] * (name[:-1] in MODULES and not seen)
            else:
                floor.append(folder + name)
        if floor:
            floors.append(floor)
    return floors


FLOORS = picture()
FLOOR = {name: k for k, floor in enumerate(FLOORS) for name in floor}


def test_every_module_has_one_place_in_the_picture():
    places = [name for floor in FLOORS for name in floor]
    shown = set(places)
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert shown - set(MODULES) == set(), "the picture shows what is not there"
    assert set(MODULES) - shown - packages == set(), "the picture lacks these"
    once = [name for name in places if name not in packages]
    assert len(once) == len(set(once)), "a module stands twice"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    """To a floor below; on its own floor only to the right, in the same folder."""
    assert name in FLOOR or not IMPORTS[name]
    for other in IMPORTS[name]:
        if other == name.rpartition(".")[0]:
            pytest.fail(f"{name} imports its own package")
        if FLOOR[other] == FLOOR[name]:
            floor, folder = FLOORS[FLOOR[name]], name.partition(".")[0]
            assert other.startswith(folder + "."), f"{name} imports its neighbour {other}"
            assert floor.index(name) < floor.index(other), f"{name} imports {other}, left of it"
        else:
            assert FLOOR[name] < FLOOR[other], f"{name} imports {other}, above it"


def test_no_two_modules_import_each_other():
    """Nor a longer circle."""
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in IMPORTS[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_frameworks_are_imported_where_they_belong():
    """core/ and the files above import no framework when they are loaded."""
    both = ("collapse", "bench", "coverage", "watched", "deepxde", "pina")
    own = {framework: (framework, *both) for framework in FRAMEWORKS}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            roots = set()
            if isinstance(node, ast.Import):
                roots = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots = {(node.module or "").partition(".")[0]}
            for framework in roots & set(FRAMEWORKS):
                assert name.partition(".")[0] in own[framework], f"{name} imports {framework}"


# ------------------------------------------------------------------ private interfaces


def private(path: Path) -> set[str]:
    """The names of PyTorch and JAX with an underscore that a file uses, as `torch._C._functorch`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()

    def is_private(dotted: str) -> bool:
        parts = dotted.split(".")
        hidden = [p for p in parts[1:] if p.startswith("_") and not p.startswith("__")]
        operation = dotted.startswith("torch.ops.")  # names of operations, not of an interface
        return parts[0] in FRAMEWORKS and bool(hidden) and not operation

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return node.id if isinstance(node, ast.Name) else ""

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if is_private(alias.name)}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found |= {whole} if is_private(whole) else set()
        elif isinstance(node, ast.Attribute):
            whole = dotted(node)
            found |= {whole} if is_private(whole) else set()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = re.fullmatch(r"(torch|jax)(\.\w+)+", node.value)
            found |= {node.value} if words and is_private(node.value) else set()
    longest = {a for a in found if not any(b.startswith(a + ".") for b in found)}
    return longest


def test_private_interfaces_stand_in_their_files_and_in_the_table():
    table = re.search(r"## Private interfaces\n(.*?)(\n## |\Z)", DOCS, re.DOTALL)
    assert table, "docs/architecture.md has no table of private interfaces"
    rows = [line for line in table[1].splitlines() if line.startswith("| `")]
    listed = {cell for row in rows for cell in re.findall(r"`([^`]+)`", row.split("|")[1])}
    used: set[str] = set()
    for name, path in MODULES.items():
        names = private(path)
        used |= names
        if names:
            assert path.name.endswith("private.py"), f"{name} uses {sorted(names)}"
    assert used == listed
