"""The command line: `jetfold bench`, `jetfold explain` and `jetfold coverage`.

typer, rich, matplotlib and torch are optional, so nothing of them is imported before `main` runs.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from . import __version__, named
from .explain import Explanation, explain
from .expressions import parse
from .transform import Transform

EXTRAS = {
    "typer": "bench",
    "rich": "bench",
    "matplotlib": "bench",
    "torch": "torch",
    "jax": "jax",
    "flax": "bench",
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
    return explain(parse(expression, names))


# ------------------------------------------------------------------ bench

SUITES = {
    "operators": ("suite", "report"),
    "stochastic": ("stochastic", "estimates"),
    "vmc": ("vmc", "costs"),
    "training": ("training", "steps"),
}
"""By name: the modules of `bench` that measure and that report."""

OPTIONS = {"dimensions": "dim"}
"""The options that have another name in the settings."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _dimensions(items: Sequence[str]) -> dict[str, int]:
    found = {}
    for item in (word for text in items for word in _words(text)):
        name, equals, number = item.partition("=")
        if not equals or not number.isdecimal():
            raise ValueError(f"--dim takes operator=number, as in --dim laplacian=20; got {item!r}")
        found[name] = int(number)
    return found


def _numbers(name: str, text: str) -> tuple[int, ...]:
    words = _words(text)
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--{name} takes whole numbers, as in --{name} 4,8; got {text!r}")
    return tuple(map(int, words))


def installed() -> tuple[str, ...]:
    """The frameworks that are there."""
    found = tuple(name for name in ("torch", "jax") if find_spec(name))
    if not found:
        raise ValueError("there is neither torch nor jax; pip install 'jetfold[torch]' or [jax]")
    return found


def measure(
    options: dict[str, Any],
    framework: str,
    device: str,
    dtype: str,
    threads: int | None,
    out: Path,
    suite: str = "operators",
    quick: bool = False,
    page: Path | None = None,
) -> int:
    """What `jetfold bench` does for one framework; the exit status.

    Args:
        options: of the `Settings` of the suite; those that are missing have defaults there.
        suite: of `SUITES`.
        quick: the suite's `QUICK` settings, where others are not given.
        page: where the table goes as Markdown, between the suite's marks.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .bench import report
    from .bench.backends import backend as backend_of
    from .bench.suite import TOLERANCE

    if suite not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}; got {suite!r}")
    if suite == "vmc" and framework != "jax":
        raise ValueError("the wave functions of --suite vmc are in JAX: --framework jax")
    measured, reported = (import_module(f".bench.{name}", __package__) for name in SUITES[suite])
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype must be one of {', '.join(TOLERANCE)}; got {dtype!r}")
    for name, given, there in (("quick", quick, measured), ("page", page, reported)):
        if given and not hasattr(there, name.upper() if name == "quick" else name):
            raise ValueError(f"--{name} does not go with --suite {suite}")
    options = (measured.QUICK if quick else {}) | options
    known = {field.name for field in fields(measured.Settings)}
    for name in options:
        if name not in known:
            raise ValueError(f"--{OPTIONS.get(name, name)} does not go with --suite {suite}")
    backend = backend_of(framework, device, dtype, threads)
    settings = measured.Settings(**(measured.defaults(backend) | options))
    environment = report.Environment.of(backend, settings)
    out.mkdir(parents=True, exist_ok=True)
    console, errors = Console(), Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("starting", total=settings.steps)
        outcome = measured.run(
            settings,
            backend,
            lambda text, steps: progress.update(task, description=text, advance=steps),
        )
    for line in reported.head(environment):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if outcome.rows:
        console.print(reported.table(outcome.rows, dtype))
        console.print(reported.legend(settings), style="dim", highlight=False)
        name = framework if suite == "operators" else f"{framework}-{suite}"
        numbers, picture = out / f"{name}.csv", out / f"{name}.png"
        reported.write_csv(outcome.rows, environment, numbers)
        drawn = reported.plot(outcome.rows, environment, picture)
        written = f"written: {numbers}, {picture}\n" if drawn else f"written: {numbers}\n"
        if page:
            report.into_page(page, name, reported.page(outcome.rows, environment))
        console.print(written, markup=False, highlight=False, soft_wrap=True)
    if warning := report.noise(outcome.rows):
        console.print(warning, style="yellow", highlight=False)
    problems = reported.complaints(outcome, dtype)
    for problem in problems:
        errors.print(problem, style="bold red", markup=False, highlight=False)
    return 1 if problems else 0


# ------------------------------------------------------------------ coverage


def covered(
    framework: str, samples: int, order: int, only: Sequence[str], page: Path | None
) -> int:
    """What `jetfold coverage` does for one framework; the exit status."""
    from rich.console import Console
    from rich.table import Table

    from .coverage import page as pages
    from .coverage import rows as kinds

    errors = Console(stderr=True)
    found = []
    run = import_module(f".coverage.{framework}", __package__).rows
    with errors.status("") as status:
        for row in run(samples, order, only):
            found.append(row)
            status.update(f"{pages.TITLES[framework]}: {len(found)} operations, {row.name}")
            if only or row.how == "wrong":
                Console().print(*row, sep=" | ", markup=False, highlight=False, soft_wrap=True)
    counts = kinds.counts(found)
    table = Table("", *counts)
    table.add_row(pages.TITLES[framework], *map(str, counts.values()))
    Console().print(table)
    if page:
        pages.write(page, framework, version(framework), found, bool(only))
    return 1 if counts["wrong"] else 0


# ------------------------------------------------------------------ commands


def application() -> Any:
    """The command line as a typer application."""
    import typer

    app = typer.Typer(
        help="Linear differential operators of functions in one forward pass.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
    )

    def refuse(error: Exception) -> "typer.Exit":
        typer.echo(f"jetfold: {error}", err=True)
        return typer.Exit(2)

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"jetfold {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=print_version, is_eager=True, help="Print the version."
            ),
        ] = False,
    ) -> None:
        pass

    # An expression may begin with a minus.
    @app.command("explain", context_settings={"ignore_unknown_options": True})
    def explain_command(
        operator: Annotated[
            str,
            typer.Argument(help='An expression like "t - 0.1*(x**2+y**2)"; laplacian; biharmonic.'),
        ],
        names: Annotated[
            str,
            typer.Option(help='The coordinates in order, "t x y". Default: as they appear.'),
        ] = "",
        dim: Annotated[
            int | None, typer.Option(help="The number of coordinates of laplacian or biharmonic.")
        ] = None,
    ) -> None:
        """Print what an operator carries: vectors per method, basis and product rule."""
        from rich.console import Console

        try:
            found = explained(operator.strip(), _words(names), dim)
        except ValueError as error:
            raise refuse(error) from None
        Console().print(found)

    @app.command("bench")
    def bench_command(
        operators: Annotated[
            str,
            typer.Option(
                help="Among laplacian,weighted-laplacian,biharmonic,kp; with --stochastic among "
                "laplacian,biharmonic,randomized-laplacian,chunked-laplacian; with --training "
                "among laplacian,biharmonic,burgers,kuramoto-sivashinsky,navier-stokes. Default: "
                "all."
            ),
        ] = "",
        methods: Annotated[
            str,
            typer.Option(
                help="Among nested,standard,collapsed,minimal and, without --stochastic, "
                "rewritten,folx,jet; with --suite vmc among forward,nested,folx,folx-sparse,dense,"
                "structured; with --training among limit,nested,collapsed,minimal,folx. Default: "
                "all."
            ),
        ] = "",
        modes: Annotated[
            str,
            typer.Option(
                help="Among eager,compiled. Default: both, JAX compiled only; with --stochastic "
                "PyTorch eager only."
            ),
        ] = "",
        dim: Annotated[
            list[str] | None,
            typer.Option(help="Coordinates of an operator, laplacian=20; may be repeated."),
        ] = None,
        networks: Annotated[
            str,
            typer.Option(
                help="Of --suite vmc: ferminet,psiformer,lapnet; of the equations of --training: "
                "20x3,64x4,128x4. Default: all."
            ),
        ] = "",
        electrons: Annotated[
            str, typer.Option(help="Of --suite vmc: even numbers. Default: 4,16.")
        ] = "",
        walkers: Annotated[
            int | None, typer.Option(help="Of --suite vmc, evaluated at once. Default: 8.")
        ] = None,
        batch: Annotated[
            int | None, typer.Option(help="Points per evaluation. Default: 128.")
        ] = None,
        points: Annotated[
            str, typer.Option(help="Of the equations of --training. Default: 1000,5000.")
        ] = "",
        memory: Annotated[
            float | None,
            typer.Option(help="With --training: GB, for which is told how many points fit. 8."),
        ] = None,
        width: Annotated[
            float | None, typer.Option(help="A factor for the widths of the network. Default: 1.")
        ] = None,
        dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
        device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
        threads: Annotated[
            int | None, typer.Option(help="Threads on the CPU. Default: the framework's.")
        ] = None,
        budget: Annotated[
            float | None,
            typer.Option(
                help="Seconds of timing per operator and mode, 5 rounds at least. Default: 3; with "
                "--stochastic 1 for every number of samples."
            ),
        ] = None,
        repeats: Annotated[
            int | None, typer.Option(help="Exactly so many timed calls, instead of --budget.")
        ] = None,
        seed: Annotated[int, typer.Option(help="Of the weights and the points.")] = 0,
        framework: Annotated[
            str, typer.Option(help="Among torch,jax. Default: those that are installed.")
        ] = "",
        out: Annotated[Path, typer.Option(help="Where tables and pictures go.")] = Path(
            "bench-results"
        ),
        suite: Annotated[
            str,
            typer.Option(
                help="operators; stochastic: random directions and high dimension; vmc: wave "
                "functions; training: gradients to parameters."
            ),
        ] = "operators",
        stochastic: Annotated[
            bool, typer.Option("--stochastic", help="The same as --suite stochastic.")
        ] = False,
        training: Annotated[
            bool, typer.Option("--training", help="The same as --suite training.")
        ] = False,
        quick: Annotated[
            bool, typer.Option("--quick", help="With --training: small sizes and few calls.")
        ] = False,
        page: Annotated[
            Path | None,
            typer.Option(help="With --training: the page whose table is written, between marks."),
        ] = None,
    ) -> None:
        """Measure the methods against each other and against plain forward passes.

        On two cores the first run takes about four minutes for both frameworks, half of it
        compilation by PyTorch; later runs find much of that on disk.

        Ends with status 1 if a result is not exact to 1e-5 (float32) or 1e-11 (float64).

        With --stochastic, Laplacian and biharmonic are estimated from S = 1, 2, 4 … 64 shared
        Gaussian directions by every method (nested differentiation of the biharmonic up to S = 8),
        and their error is measured; a Laplacian in D = 100,000 coordinates is estimated from 16
        directions, and an exact one in D = 10,000 evaluated in chunks of 100 (both of a network
        D → 64 → 1, batch 4 at most). That takes about four minutes for both frameworks, and ends
        with status 1 also if an estimate is more than 6 standard errors off.

        With --suite vmc, log|ψ|, its gradient and its Laplacian are evaluated in JAX for FermiNet,
        Psiformer and LapNet by a scan of Hessian-vector products, by folx (dense and sparse) and by
        jetfold (structure=False and as it is), and their time, temporary memory, compile time,
        operations and errors are set beside the plain forward pass. Most of the time goes into
        compilation, a third of it into that of folx-sparse.

        With --training, the gradient of a loss to all parameters is measured: time, bytes kept and
        compile time of a step (and the time of a value), of two operators of the network above and
        of the residuals of Burgers', Kuramoto and Sivashinsky's and Navier and Stokes' equations of
        small networks, on one thread. Nested differentiation is torch.autograd.grad of
        torch.autograd.grad or jax.grad of jax.grad there. The picture shows memory over the number
        of points. Takes about 20 minutes for PyTorch and 10 for JAX, mostly compilation. Ends with
        status 1 if a gradient is not exact to 1e-4 (float32).
        """
        from .bench import report  # noqa: F401  (what is missing should be missed at once)

        try:
            given = {
                "operators": _words(operators),
                "methods": _words(methods),
                "modes": _words(modes),
                "dimensions": _dimensions(dim or ()),
                "networks": _words(networks),
                "electrons": _numbers("electrons", electrons),
                "points": _numbers("points", points),
            }
            options: dict[str, Any] = {name: value for name, value in given.items() if value}
            options["seed"] = seed
            numbers = {
                "walkers": walkers,
                "batch": batch,
                "width": width,
                "memory": memory,
                "repeats": repeats,
                "budget": budget,
            }
            options |= {name: value for name, value in numbers.items() if value is not None}
            flags = {"stochastic": stochastic, "training": training}
            suite = next((name for name, given in flags.items() if given), suite)
            status = 0
            for name in _words(framework) or (("jax",) if suite == "vmc" else installed()):
                status |= measure(options, name, device, dtype, threads, out, suite, quick, page)
        except ValueError as error:
            raise refuse(error) from None
        raise typer.Exit(status)

    @app.command("coverage")
    def coverage_command(
        framework: Annotated[
            str, typer.Option(help="Among torch,jax. Default: those that are installed.")
        ] = "",
        samples: Annotated[int, typer.Option(help="Samples of each operation, at most.")] = 4,
        order: Annotated[int, typer.Option(help="Of the highest derivatives, 1 to 3.")] = 3,
        only: Annotated[str, typer.Option(help="The operations wanted. Default: all.")] = "",
        page: Annotated[
            Path | None,
            typer.Option(help="A page to write, docs/coverage.md; with --only, those rows of it."),
        ] = None,
    ) -> None:
        """Run every operation of the frameworks' own test databases, and check its derivatives.

        Takes some minutes for each framework. Ends with status 1 if a result is wrong, or if an
        error explains nothing.
        """
        try:
            if not 1 <= order <= 3:
                raise ValueError(f"--order must be 1, 2 or 3; got {order}")
            status = 0
            for name in _words(framework) or installed():
                status |= covered(name, samples, order, _words(only), page)
        except ValueError as error:
            raise refuse(error) from None
        raise typer.Exit(status)

    return app


def main() -> None:
    """The entry point. A package that is missing is answered with how to install it."""
    try:
        application()()
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
