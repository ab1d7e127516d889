"""The command line: `jetfold`, and `python -m jetfold`.

`--help`, `--version` and `explain` need nothing but jetfold itself; the other commands are
typer's, in `cli`, which comes with the extra "bench".
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from . import __version__, named
from .explain import Explanation, explain
from .explain.operator import explain_operator
from .expressions import NonlinearError, derivatives_in, linear_part, parse
from .transform import Transform

COMMANDS = {
    "bench": "time every method on a real network, errors beside it",
    "report": "write what `jetfold bench --paper` measured as a page",
    "pages": "write the tables of README.md and docs/ from docs/results/",
    "coverage": "run every operation of the frameworks' own test databases on jets",
}
"""The commands of `cli`, and what each does."""

EXTRAS = {
    "typer": "bench",
    "rich": "bench",
    "matplotlib": "bench",
    "plotly": "bench",
    "jinja2": "bench",
    "torch": "torch",
    "jax": "jax",
    "flax": "jax-bench",
    "folx": "jax-bench",
    "expecttest": "coverage",
    "absl": "coverage",
}
"""Which optional extra of jetfold brings which package."""

NAMED: dict[str, Transform] = {
    found.name: found for found in vars(named).values() if isinstance(found, Transform)
}
"""The operators that `jetfold explain` knows by name, in any number of coordinates."""


def explained(expression: str, names: Sequence[str] = (), dim: int | None = None) -> Explanation:
    """What `jetfold explain` prints.

    Raises:
        ValueError: the options do not fit the expression, or it is no operator.
    """
    if expression in NAMED and not names:
        if dim is None:
            raise ValueError(
                f"the {expression} needs the number of coordinates: jetfold explain {expression} "
                "--dim 3"
            )
        return explain(NAMED[expression], coordinates=dim)
    if dim is not None:
        raise ValueError(
            f"--dim goes with {', '.join(NAMED)}; the coordinates of an expression are its names, "
            'or those of --names "t x y"'
        )
    if len(set(names)) < len(names):
        raise ValueError(f"--names has a name twice: {' '.join(names)}")
    try:
        return explain(parse(expression, names))
    except NonlinearError:  # what `residual` propagates for it
        found = explain_operator(derivatives_in(expression, names), None, expression)
    linear, others = linear_part(expression, names)
    fewer = explain([*others, linear]).vectors["minimal"]
    if fewer == found.vectors["minimal"]:
        return found
    return replace(found, as_one=(str(linear), fewer))


def printed(found: Any) -> None:
    """In colours where rich is there."""
    try:
        console = import_module("rich.console").Console()
    except ModuleNotFoundError:
        print(found)
    else:
        console.print(found)


def parser() -> argparse.ArgumentParser:
    """The command line as argparse reads it; of `COMMANDS` it knows the names alone."""
    root = argparse.ArgumentParser(
        "jetfold",
        description="Linear differential operators of functions in one forward pass.",
        epilog="jetfold COMMAND --help lists the options of a command.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"jetfold {__version__}")
    commands = root.add_subparsers(metavar="COMMAND", dest="command")
    text = "print what an operator carries: vectors per method, basis and product rule"
    one = commands.add_parser("explain", help=text, description=text, allow_abbrev=False)
    one.add_argument(
        "operator",
        help='an expression like "t - 0.1*(x**2+y**2)" or "u_t - u_xx"; an equation of one '
        'function, "u_t + u*u_x - 0.1*u_xx"; laplacian; biharmonic',
    )
    one.add_argument(
        "--names", default="", help='the coordinates in order, "t x y" (default: as they appear)'
    )
    one.add_argument("--dim", type=int, help="the number of coordinates of a named operator")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return root


def run(words: Sequence[str]) -> None:
    """A command; ends with `SystemExit` where its status is not 0."""
    if words and words[0] in COMMANDS:
        import_module(".cli", __package__).application()(list(words), prog_name="jetfold")
        return
    # To argparse a word with a space is no option: an expression may begin with a minus.
    signed = [" " + w if w[:1] == "-" and w[:2] != "--" and w != "-h" else w for w in words]
    given = parser().parse_args(signed or ["--help"])
    try:
        printed(explained(given.operator.strip(), given.names.replace(",", " ").split(), given.dim))
    except ValueError as error:
        print(f"jetfold: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def main(words: Sequence[str] | None = None) -> None:
    """The entry point. A package that is missing is answered with how to install it."""
    try:
        run(sys.argv[1:] if words is None else words)
        sys.stdout.flush()
    except BrokenPipeError:  # `jetfold explain … | head`: what nobody reads is not missed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        sys.exit(
            f"jetfold: this command needs {package}, which is not installed; run\n"
            f"    pip install 'jetfold[{EXTRAS[package]}]'"
        )


if __name__ == "__main__":
    main()
