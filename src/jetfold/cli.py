"""The commands that come with the extra "bench": `jetfold bench`, `report`, `coverage`, `pages`.

`__main__` holds the others, and calls `application` for these. typer, rich, matplotlib and torch
are optional, so nothing of them is imported before a command runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from .frameworks import TITLES

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


@contextmanager
def _advancing(
    console: Any, total: int, remaining: bool = False
) -> Iterator[Callable[[str, int], object]]:
    """A progress bar: a function of what happens next, and of how many steps were completed.

    Args:
        remaining: whether the time that is left can be told.
    """
    from rich import progress as bars

    columns = [
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        *([bars.TimeRemainingColumn()] * remaining),
    ]
    with bars.Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda text, steps: progress.update(task, description=text, advance=steps)


def measure(
    options: dict[str, Any],
    framework: str,
    device: str,
    dtype: str,
    threads: int | None,
    out: Path,
    suite: str = "operators",
    quick: bool = False,
) -> int:
    """What `jetfold bench` does for one framework; the exit status.

    Args:
        options: of the `Settings` of the suite; those that are missing have defaults there.
        suite: of `SUITES`.
        quick: the suite's `QUICK` settings, where others are not given.
    """
    from rich.console import Console

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
    if quick and not hasattr(measured, "QUICK"):
        raise ValueError(f"--quick does not go with --suite {suite}")
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
    with _advancing(errors, settings.steps) as advance:
        outcome = measured.run(settings, backend, advance)
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
        console.print(written, markup=False, highlight=False, soft_wrap=True)
    if warning := report.noise(outcome.rows):
        console.print(warning, style="yellow", highlight=False)
    problems = reported.complaints(outcome, dtype)
    for problem in problems:
        errors.print(problem, style="bold red", markup=False, highlight=False)
    return 1 if problems else 0


def reproduced(
    size: str, frameworks: Sequence[str], device: str, threads: int | None, out: Path
) -> int:
    """What `jetfold bench --paper` does; the exit status."""
    from rich.console import Console

    from .bench import evidence

    console, errors = Console(), Console(stderr=True)
    wanted = evidence.groups(size, frameworks, device, threads)
    out.mkdir(parents=True, exist_ok=True)
    results = evidence.opened(out, size)
    file = out / evidence.FILE
    try:
        with (
            evidence.processes(frameworks, out / "paper.log") as start,
            _advancing(errors, sum(len(specs) for specs, _ in wanted), remaining=True) as advance,
        ):
            evidence.run(wanted, results, out, start, advance)
    except KeyboardInterrupt:
        errors.print(
            f"interrupted; {len(results.cells)} cells are in {file}, and the same command goes on",
            style="yellow",
            soft_wrap=True,
        )
        return 130
    for line in results.versions.values():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(evidence.table(results))
    console.print(evidence.legend(results), style="dim", highlight=False)
    written = f"written: {file}, {file.with_suffix('.csv')}\n"
    console.print(written, markup=False, highlight=False, soft_wrap=True)
    problems = evidence.problems(results, wanted)
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
            status.update(f"{TITLES[framework]}: {len(found)} operations, {row.name}")
            if only or row.how == "wrong":
                Console().print(*row, sep=" | ", markup=False, highlight=False, soft_wrap=True)
    counts = kinds.counts(found)
    table = Table("", *counts)
    table.add_row(TITLES[framework], *map(str, counts.values()))
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
                "structured; with --training among limit,nested,collapsed,minimal,combined,folx. "
                "Default: all."
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
            bool,
            typer.Option("--quick", help="With --training or --paper: small sizes, few calls."),
        ] = False,
        paper: Annotated[
            bool,
            typer.Option(
                "--paper", help="The experiments of Dangel et al. 2025, and more; see below."
            ),
        ] = False,
        full: Annotated[
            bool, typer.Option("--full", help="With --paper: the whole grid of the paper.")
        ] = False,
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

        With --paper, runtime and peak memory (with and without all that a backward pass to the
        parameters needs) of Laplacian, weighted Laplacian and biharmonic are measured over batch
        sizes and, estimated, over numbers of random directions, by every method in both frameworks.
        A straight line is fitted to each; its slope is set beside that of nested differentiation,
        and beside the ratios of the paper. Further experiments follow: cost over dimension, order,
        depth, width and kinds of network, float32 errors, compilation. Everything goes into
        OUT/paper.json (and paper.csv), and what is there already is not measured again, so a run
        may be interrupted. On two cores about an hour; with --quick less than ten minutes; with
        --full (the paper's batches, up to 2048, for --device cuda) hours on a CPU. Takes
        --framework, --device, --threads (of both frameworks) and --out.
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
            frameworks = _words(framework) or (("jax",) if suite == "vmc" else installed())
            if full and not paper:
                raise ValueError("--full goes with --paper")
            if paper:
                odd = {**options, "suite": suite if suite != "operators" else None}
                for name in (n for n, value in odd.items() if value and n != "seed"):
                    raise ValueError(f"--{OPTIONS.get(name, name)} does not go with --paper")
                size = "full" if full else "quick" if quick else "default"
                raise typer.Exit(reproduced(size, frameworks, device, threads, out))
            status = 0
            for name in frameworks:
                status |= measure(options, name, device, dtype, threads, out, suite, quick)
        except ValueError as error:
            raise refuse(error) from None
        raise typer.Exit(status)

    @app.command("report")
    def report_command(
        results: Annotated[
            Path, typer.Argument(help="What `jetfold bench --paper` has written.")
        ] = Path("bench-results/paper.json"),
        against: Annotated[
            Path | None,
            typer.Option(help="Results of another machine or version, to set beside these."),
        ] = None,
        out: Annotated[
            Path | None, typer.Option(help="The page. Default: report.html beside the results.")
        ] = None,
        show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    ) -> None:
        """Write a page from measured results: report.html, and beside it report.csv and .json.

        The page needs nothing but itself: three sentences, which rows we lose and to whom, the
        paper's table with the published ratios, plots, predictions against measurements. With
        --against, what changed by more than the noise.
        """
        from .report.page import Input, write

        try:
            here, there = Input.read(results), Input.read(against) if against else None
            written = write(here, there, out or results.with_name("report.html"))
        except ValueError as error:
            raise refuse(error) from None
        typer.echo("written: " + ", ".join(map(str, written)))
        if show:
            typer.launch(str(written[0]))

    @app.command("pages")
    def pages_command(
        check: Annotated[
            bool, typer.Option("--check", help="Write nothing; status 1 if something is stale.")
        ] = False,
        root: Annotated[
            Path, typer.Option(help="The directory of README.md and docs/; it has docs/results/.")
        ] = Path(),
    ) -> None:
        """Write the tables of README.md and docs/ from the results in docs/results/.

        Between marks: <!-- torch-training --> is made of docs/results/torch-training.csv.
        To measure again, run jetfold bench with --out docs/results.
        """
        from .bench import pages

        try:
            for path in [] if check else pages.write(root):
                typer.echo(f"written: {path}")
            problems = pages.problems(root)
        except ValueError as error:
            raise refuse(error) from None
        for problem in problems:
            typer.echo(problem, err=True)
        raise typer.Exit(1 if problems else 0)

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
