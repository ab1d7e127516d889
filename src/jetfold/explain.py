"""What an operator costs (`explain`), and whether its value is right (`check`).

Nothing here computes derivatives: `explain` reads the algebras of the methods, `check` calls the
operator once per method and once more in float64.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from .collapse import explain_program
from .core.directions import Direction, Scheme, scheme
from .core.polynomial import Polynomial
from .frameworks import frontend_of
from .named import biharmonic, laplacian, weighted_laplacian
from .operators import Operator, derivatives
from .randomized import Randomized
from .transform import coordinate_symbols

METHODS = ("minimal", "collapsed", "standard")

Sections = list[tuple[str, list[tuple[str, str]]]]
"""What is printed: titles, each with rows of two columns."""


# ------------------------------------------------------------------ explain


@dataclass(frozen=True, repr=False)
class Explanation:
    """What is carried for an operator, and how it multiplies. Prints as text.

    Attributes:
        operator: the operator, as one writes it.
        coordinates: the number of coordinates of the point.
        vectors: per method, how many vectors are carried at every node of the function.
        by_degree: the same, split by degree 0, 1, ….
        directions: (name, linear form) of the abstract variables in which the minimal basis is
            written; empty where the coordinates themselves serve.
        basis: the minimal basis polynomials, by degree.
        labels: how the formulas call them, by degree.
        products: the product rule of each of them, `(uv)_xx = u·v_xx + u_xx·v + 2·u_x·v_x`.
        entries: how many structure constants these hold, those of the value not counted.
        readout: (operator, formula): how each operator is read out of the coefficients in the end.
    """

    operator: str
    coordinates: int
    vectors: Mapping[str, int]
    by_degree: Mapping[str, tuple[int, ...]]
    directions: tuple[tuple[str, str], ...]
    basis: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, ...], ...]
    products: tuple[tuple[str, ...], ...]
    entries: int
    readout: tuple[tuple[str, str], ...]

    def sections(self) -> Sections:
        """What is printed, long lists cut."""
        carried = [
            (method, f"{count:>4} = " + " + ".join(map(str, self.by_degree[method])))
            for method, count in self.vectors.items()
        ]
        members: list[tuple[str, str]] = []
        for degree, (labels, polynomials) in enumerate(zip(self.labels, self.basis, strict=True)):
            named = [
                label if label == polynomial else f"{label} = {_cut_sum(polynomial)}"
                for label, polynomial in zip(labels, polynomials, strict=True)
            ]
            sums = any(" + " in text or " - " in text for text in named)
            lines = _cut(named, 3) if sums else [", ".join(_cut(named, 6))]
            members += [("" if k else f"degree {degree}", text) for k, text in enumerate(lines)]
        rules = []
        for of_degree in self.products:
            for text in _cut(of_degree, 3):
                left, equals, right = text.partition(" = ")
                rules.append((left, f"= {_cut_sum(right, 7)}") if equals else ("", left))
        found: Sections = [("Vectors carried at every node, by degree 0, 1, …", carried)]
        if self.directions:
            forms = [f"{name} = {_cut_sum(form)}" for name, form in self.directions]
            found.append(("Directions", [("", text) for text in _cut(forms, 6)]))
        found.append(("Basis of the minimal algebra", members))
        constants = f"{self.entries} structure constant{'s' * (self.entries != 1)}"
        heading = f"Product rule (u_w means w(∂)u); {constants} beside those of u and v"
        if rules:
            found.append((heading, rules))
        found.append(
            (
                "Read-out",
                [(_cut_sum(left), f"= {_cut_sum(right, 7)}") for left, right in self.readout],
            )
        )
        return found

    @property
    def title(self) -> str:
        """The first line."""
        s = "s" * (self.coordinates != 1)
        return f"{_cut_sum(self.operator)}, on {self.coordinates} coordinate{s}"

    def __str__(self) -> str:
        return _as_text(self.title, self.sections())

    __repr__ = __str__

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        return _as_rich(self.title, self.sections())


@dataclass(frozen=True, repr=False)
class Estimate:
    """What a randomized operator carries, and how its value varies. Prints as text.

    Attributes:
        operator: the operator, as one writes it.
        samples: how many directions (or terms) are drawn.
        exact: whether the exact operator is evaluated, because it carries no more vectors.
        vectors: how many vectors are carried by the estimate; and by the exact operator, None where
            that is too many to count.
        formulas: the variance of every random part.
        draws: how many values of a function were compared.
        mean, deviation: of these values, in the structure that the function returns: numpy arrays.
    """

    operator: str
    samples: int
    exact: bool
    vectors: tuple[int, int | None]
    formulas: tuple[str, ...]
    draws: int = 0
    mean: Any = None
    deviation: Any = None

    def sections(self) -> Sections:
        """What is printed."""
        sampled, exact = self.vectors
        rows = [("sampled", str(sampled)), ("exact", "many" if exact is None else str(exact))]
        found: Sections = [("Vectors carried at every node", rows)]
        if self.exact:
            found.append(("Variance", [("", "none: the exact operator carries no more vectors")]))
        else:
            found.append(("Variance", [("", text) for text in self.formulas]))
        if self.draws:
            measured = [("mean", _numbers(self.mean)), ("deviation", _numbers(self.deviation))]
            found.append((f"Values of {self.draws} draws", measured))
        return found

    @property
    def title(self) -> str:
        """The first line."""
        return f"{_cut_sum(self.operator)}, {self.samples} sample{'s' * (self.samples != 1)}"

    def __str__(self) -> str:
        return _as_text(self.title, self.sections())

    __repr__ = __str__

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        return _as_rich(self.title, self.sections())


def _numbers(arrays: Sequence[np.ndarray]) -> str:
    texts = [f"{x:.4g}" for array in arrays for x in np.ravel(array)]
    return ", ".join(_cut(texts, 6))


def explain_estimate(
    operator: Randomized,
    subject: Any = None,
    *args: Any,
    rng: Any = None,
    draws: int = 100,
    **options: Any,
) -> Estimate:
    """What a randomized operator carries and how it varies, for a function also in numbers.

    Args:
        subject: a function, or a number of coordinates.
    """
    if callable(subject) and not args:
        raise TypeError(
            "explain(randomized, f, x, …) measures the variance of a function at a point, and no "
            "point came"
        )
    coordinates = _coordinates(operator.operator, args, options) if args else subject
    estimator, exact = operator.estimator(coordinates), operator.exact_vectors(coordinates)
    found = Estimate(
        operator=operator.name,
        samples=operator.samples,
        exact=not estimator.random or estimator.no_cheaper_than(exact),
        vectors=(estimator.vectors, exact),
        formulas=estimator.variance,
    )
    if not args:
        return found
    evaluate = operator(subject, **options)
    frontend = frontend_of(args[0])
    values = []
    for generator in frontend.generators(rng, draws):
        values.append(_arrays(frontend, evaluate(*args, rng=generator)))
    stacked = [np.stack(leaves) for leaves in zip(*values, strict=True)]
    return replace(
        found,
        draws=draws,
        mean=[leaf.mean(0) for leaf in stacked],
        deviation=[leaf.std(0, ddof=1) for leaf in stacked],
    )


def _coordinates(operator: Any, args: Sequence[Any], options: Mapping[str, Any]) -> int:
    """How many coordinates the point has; of a weighted Laplacian how many columns σ has."""
    given = options.get("argnums", 0)
    positions = (given,) if isinstance(given, int) else tuple(given)
    points = [args[k] for k in positions]
    if operator is weighted_laplacian:
        sigma = options.get("sigma")
        if sigma is None:
            raise TypeError(
                "explain(randomized weighted_laplacian, f, x, …) needs sigma=; with a matrix C "
                "make the operator from partials(n): sum(C[i, j] * x[i] * x[j])"
            )
        return int((sigma(*points) if callable(sigma) else sigma).shape[-1])
    return sum(prod(x.shape[options.get("batch_dims", 0) :]) for x in points)


def explain(operator: Any, coordinates: Any = None, *args: Any, **kwargs: Any) -> Any:
    """What an operator carries: vectors per method, the minimal basis and its product rule.

    `explain(f, x, …)` of a function and its arguments says what `jetfold.collapse` makes of it: its
    operations before and after, every sum that moves, how far, and what stopped it.

    `explain(jetfold.randomize(…))` gives the vectors carried and the formula of the variance;
    `explain(jetfold.randomize(…), f, x, rng=…, draws=100)` measures mean and standard deviation
    (with the keywords that the operator takes, such as batch_dims or sigma).

    Args:
        operator: an `Operator`; `jetfold.laplacian` or `jetfold.biharmonic` (with coordinates); or
            any nesting of dicts, lists and tuples of operators, as for `jetfold.derivatives`.
        coordinates: the number of coordinates, where the operator does not say; of a randomized
            weighted Laplacian the number of columns of sigma.

    Returns:
        an `Explanation` (of a program a `ProgramExplanation`, which also draws it with `save`; of a
        randomized operator an `Estimate`): print it, or read its attributes.

    Raises:
        TypeError: it is no operator.
        ValueError: the number of coordinates is missing, or does not fit.

    >>> import jetfold as jf
    >>> t, x = jf.partials(2, names="t x")
    >>> explain(t - x**2)
    t - x**2, on 2 coordinates
    <BLANKLINE>
    Vectors carried at every node, by degree 0, 1, …
      minimal        3 = 1 + 1 + 1
      collapsed      4 = 1 + 2 + 1
      standard       4 = 1 + 2 + 1
    <BLANKLINE>
    Basis of the minimal algebra
      degree 0   1
      degree 1   x
      degree 2   e2 = -t + x**2
    <BLANKLINE>
    Product rule (u_w means w(∂)u); 1 structure constant beside those of u and v
      (uv)_x    = u·v_x + u_x·v
      (uv)_e2   = u·v_e2 + u_e2·v + 2·u_x·v_x
    <BLANKLINE>
    Read-out
      t - x**2   = -u_e2
    >>> explain(jf.biharmonic, coordinates=5).vectors
    {'minimal': 27, 'collapsed': 107, 'standard': 141}
    """
    if isinstance(operator, Randomized):
        return explain_estimate(operator, coordinates, *args, **kwargs)
    if args or kwargs or not (coordinates is None or isinstance(coordinates, int)):
        return explain_program(operator, (coordinates, *args), kwargs)
    subject = _subject(operator, coordinates)
    schemes = {method: scheme(subject.symbols, method) for method in METHODS}
    minimal = schemes["minimal"]
    algebra = minimal.algebra
    names, directions = subject.names, list[tuple[str, str]]()
    if minimal.directions is not None:
        used = {v for polynomial in algebra.basis for v in polynomial.variables}
        names = {r: f"ζ{r}" for r in used}
        directions = [
            (names[r], _linear_form(direction, subject.names))
            for r, direction in enumerate(minimal.directions)
            if r in used
        ]
    texts = [polynomial.format(names) for polynomial in algebra.basis]
    labels = [
        _label(position, polynomial, names) for position, polynomial in enumerate(algebra.basis)
    ]
    by_degree = _by_degree(minimal, labels)
    return Explanation(
        operator=subject.text,
        coordinates=subject.coordinates,
        vectors={method: s.algebra.vectors for method, s in schemes.items()},
        by_degree={method: s.algebra.sizes for method, s in schemes.items()},
        directions=tuple(directions),
        basis=_by_degree(minimal, texts),
        labels=by_degree,
        products=_product_rules(minimal, by_degree),
        entries=sum(len(t.entries) for tables in algebra.products for t in tables),
        readout=subject.readout(_readouts(minimal, by_degree)),
    )


@dataclass(frozen=True)
class _Subject:
    """What is explained.

    Attributes:
        parts: (name, [(coefficient, symbol), …]) of every operator, the coefficient "" or text.
    """

    text: str
    coordinates: int
    names: Mapping[int, str]
    parts: tuple[tuple[str, tuple[tuple[str, Polynomial], ...]], ...]

    @property
    def symbols(self) -> tuple[Polynomial, ...]:
        return tuple(symbol for _, terms in self.parts for _, symbol in terms)

    def readout(self, formulas: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """One row per operator, from one formula per symbol."""
        rest, rows = iter(formulas), []
        for name, terms in self.parts:
            pieces = [(coefficient, symbol, next(rest)) for coefficient, symbol in terms]
            shown = [(c, formula) for c, symbol, formula in pieces if symbol or len(pieces) == 1]
            rows.append((name, " + ".join(f"{c}·({f})" if c else f for c, f in shown)))
        return tuple(rows)


def _subject(operator: Any, coordinates: int | None) -> _Subject:
    if operator is laplacian or operator is biharmonic:
        name = operator.__name__
        if coordinates is None:
            raise ValueError(
                f"explain({name}) needs the number of coordinates: explain({name}, coordinates=3)"
            )
        if not isinstance(coordinates, int) or isinstance(coordinates, bool) or coordinates < 1:
            raise ValueError(f"coordinates must be a positive integer, got {coordinates!r}")
        (symbol,) = coordinate_symbols(name, coordinates)
        names = {i: f"d{i}" for i in range(coordinates)}
        return _Subject(name, coordinates, names, ((name, (("", symbol),)),))
    if operator is weighted_laplacian:
        raise TypeError(
            "explain(weighted_laplacian) depends on sigma, but only on its number of columns R: it "
            "carries what the Laplacian in R coordinates carries, explain(laplacian, coordinates=R)"
        )
    found = list(_leaves(operator, ""))
    operators = [leaf for _, leaf in found if isinstance(leaf, Operator)]
    if not operators:
        raise TypeError(
            "explain takes an Operator made with partials(n), laplacian or biharmonic with "
            f"coordinates=n, or a nesting of operators; got {type(operator).__name__}"
            + (" (the operator itself, not operator(f))" if callable(operator) else "")
        )
    total = operators[0].coordinates
    if coordinates is not None and coordinates != total:
        raise ValueError(
            f"{operators[0]!r} acts on {total} coordinates, got coordinates={coordinates}; leave "
            "coordinates out, or make the operator with "
            f"partials({coordinates})"
        )
    names = {i: f"d{i}" for i in range(total)}
    parts = []
    for path, leaf in found:
        as_operator = operators[0]._coerce(leaf)
        if as_operator is None:
            raise TypeError(f"expected an operator or a number at {path}, got {leaf!r}")
        names |= as_operator.names
        parts.append((f"{path}: {leaf}" if path else str(leaf), tuple(_terms(as_operator))))
    text = str(operator) if isinstance(operator, Operator) else ", ".join(p for p, _ in parts)
    return _Subject(text, total, names, tuple(parts))


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}[{key!r}]" if path else str(key))
    elif isinstance(tree, (list, tuple)):
        for k, value in enumerate(tree):
            yield from _leaves(value, f"{path}[{k}]")
    else:
        yield path, tree


def _terms(operator: Operator) -> Iterator[tuple[str, Polynomial]]:
    """The symbols of an operator, each with the coefficient that stays outside."""
    yield "", operator.symbol
    for term in operator.outside:
        name = getattr(term.coefficient, "__name__", None)
        shape = getattr(term.coefficient, "shape", None)
        yield (
            name or (str(term.coefficient) if shape is None else f"array{tuple(shape)}"),
            (term.symbol),
        )


def _label(position: int, polynomial: Polynomial, names: Mapping[int, str]) -> str:
    """x, xy for monomials in one-letter coordinates, e7 for the eighth basis element otherwise."""
    if len(polynomial.terms) == 1:
        ((monomial, c),) = polynomial.terms.items()
        letters = [names[v] for v in monomial]
        if c == 1 and (len(letters) < 2 or all(len(letter) == 1 for letter in letters)):
            return "".join(letters) or "1"
    return f"e{position}"


def _linear_form(direction: Direction, names: Mapping[int, str]) -> str:
    return Polynomial({(i,): c for i, c in direction}).format(names)


def _by_degree(found: Scheme, texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    rest = iter(texts)
    return tuple(tuple(next(rest) for _ in range(size)) for size in found.algebra.sizes)


def _product_rules(
    found: Scheme, labels: tuple[tuple[str, ...], ...]
) -> tuple[tuple[str, ...], ...]:
    """(uv)_w = u·v_w + u_w·v + Σ c^w_{ab} u_a·v_b, by degree."""
    rules = []
    for degree, tables in enumerate(found.algebra.products):
        terms: dict[int, list[tuple[float, str]]] = {}
        for table in tables:
            for w, a, b, c in table.entries:
                factor = f"u_{labels[table.i][a]}·v_{labels[table.j][b]}"
                terms.setdefault(w, []).append((c, factor))
        rules.append(
            tuple(
                f"(uv)_{w} = "
                + _sum([(1.0, f"u·v_{w}"), (1.0, f"u_{w}·v"), *terms.get(position, ())])
                for position, w in enumerate(labels[degree])
                if degree
            )
        )
    return tuple(rules)


def _readouts(found: Scheme, labels: tuple[tuple[str, ...], ...]) -> list[str]:
    return [
        _sum([(c, f"u_{labels[degree][w]}" if degree else "u") for degree, w, c in entries])
        for entries in found.algebra.readout
    ]


def _sum(terms: Sequence[tuple[float, str]]) -> str:
    pieces = []
    for c, factor in terms:
        size = "" if abs(c) == 1 else f"{abs(c):.6g}·"
        pieces.append(f"{' - ' if c < 0 else ' + '}{size}{factor}")
    text = "".join(pieces)
    return ("-" if text.startswith(" - ") else "") + text[3:] if text else "0"


def _cut(texts: Sequence[str], most: int) -> list[str]:
    """The first of many, with a count of what was left out."""
    if len(texts) <= most + 1:
        return list(texts)
    return [*texts[:most], f"… ({len(texts) - most} more)"]


def _cut_sum(text: str, most: int = 6) -> str:
    """The first terms of a long sum, with a count of what was left out."""
    terms = re.split(r"(?= [+-] )", text)
    return (
        "".join(terms)
        if len(terms) <= most + 1
        else ("".join(terms[:most]) + f" + … ({len(terms) - most} more)")
    )


# ------------------------------------------------------------------ check


@dataclass(frozen=True, repr=False)
class Report:
    """How far each method is from nested automatic differentiation. Prints as text.

    Attributes:
        function: the name of the function.
        dtype: the dtype in which the methods were evaluated.
        reference: what they were compared with.
        largest: the largest |value| of the reference.
        absolute: per method the largest absolute error.
        relative: per method the largest absolute error of an array divided by the largest |value|
            of that array; the largest over all arrays that the operator returns.
        note: what a reader should know about the comparison, or "".
    """

    function: str
    dtype: str
    reference: str
    largest: float
    absolute: Mapping[str, float]
    relative: Mapping[str, float]
    note: str = ""

    @property
    def worst(self) -> float:
        """The largest relative error of any method."""
        return max(self.relative.values())

    def sections(self) -> Sections:
        """What is printed."""
        rows = [("", "absolute   relative")]
        rows += [(m, f"{self.absolute[m]:<8.2g}   {self.relative[m]:.2g}") for m in self.absolute]
        rows += [("largest |value|", f"{self.largest:.6g}")]
        return [
            (f"Largest errors against {self.reference}", rows),
            *([("Note", [("", self.note)])] if self.note else []),
        ]

    @property
    def title(self) -> str:
        """The first line."""
        return f"{self.function}, evaluated in {self.dtype}"

    def __str__(self) -> str:
        return _as_text(self.title, self.sections())

    __repr__ = __str__

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        return _as_rich(self.title, self.sections())


def check(
    operator: Any,
    function: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    batch_dims: int = 0,
    methods: Sequence[str] = METHODS,
    **kwargs: Any,
) -> Report:
    """Compare every method with nested automatic differentiation in float64, at one point.

    The arguments, and a copy of the function if it is a `torch.nn.Module` or a pytree of JAX, are
    converted to float64 for the reference; tensors that the function closes over enter every
    PyTorch operation as float64 (JAX promotes by itself). What cannot be converted that way (a
    scripted function with float32 parameters, a function that insists on its dtype) is compared in
    the dtype given, and the report says so.

    Args:
        operator: an `Operator`, `jetfold.laplacian`, any other transform of jetfold
            (`functools.partial(jf.weighted_laplacian, sigma=sigma)`), or a nesting of operators as
            for `jetfold.derivatives`.
        function: the function to differentiate.
        args, kwargs: its arguments, the point among them.
        argnums, batch_dims: as in the call of an operator.
        methods: which methods to compare.

    Returns:
        a `Report`: print it, or read its attributes.

    Raises:
        TypeError, ValueError: as the operator itself does.

    >>> import torch, jetfold as jf
    >>> x = torch.tensor([0.3, 0.7], dtype=torch.float64)
    >>> report = check(jf.laplacian, lambda x: torch.sin(x).prod(), x)
    >>> report.worst < 1e-12
    True
    """
    if isinstance(operator, (Mapping, list, tuple)):
        operator = derivatives(operator)
    if not callable(operator):
        raise TypeError(
            "check takes an operator, a transform of jetfold or a nesting of operators, got "
            f"{type(operator).__name__}"
        )
    if not methods:
        raise ValueError(f"methods must name at least one of {', '.join(METHODS)}")
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not args or not positions or any(not -len(args) <= k < len(args) for k in positions):
        raise TypeError(
            f"check(operator, function, *args) got {len(args)} positional arguments, and argnums="
            f"{argnums!r} asks for the point among them; pass the point by position"
        )
    frontend = frontend_of(args[positions[0]])

    def evaluate(function: Callable[..., Any], method: str, *args: Any, **kwargs: Any) -> Any:
        transformed = operator(function, argnums=argnums, batch_dims=batch_dims, method=method)
        return _arrays(frontend, transformed(*args, **kwargs))

    values = {method: evaluate(function, method, *args, **kwargs) for method in methods}
    dtype = _dtype(args[positions[0]])
    note = ""
    try:
        with frontend.float64():
            double = frontend.in_float64
            reference = evaluate(double(function), "nested", *double(args), **double(kwargs))
        precision = "float64"
    except (RuntimeError, TypeError) as error:
        if not any(word in str(error) for word in ("dtype", "scalar type", "Input type")):
            raise
        precision = dtype
        note = (
            f"the function cannot be evaluated in float64 ({error}), so the reference is in "
            f"{dtype} too, with errors of its own; pass its parameters as arguments, or hand over "
            "the torch.nn.Module itself"
        )
        reference = evaluate(function, "nested", *args, **kwargs)
    sizes = [_largest(leaf) for leaf in reference]
    errors = {
        method: [_largest(leaf - exact) for leaf, exact in zip(leaves, reference, strict=True)]
        for method, leaves in values.items()
    }
    return Report(
        function=getattr(function, "__name__", type(function).__name__),
        dtype=dtype,
        reference=f"nested automatic differentiation in {precision}",
        largest=max(sizes),
        absolute={method: max(found) for method, found in errors.items()},
        relative={
            method: max(
                error / size if size else (float("inf") if error else 0.0)
                for error, size in zip(found, sizes, strict=True)
            )
            for method, found in errors.items()
        },
        note=note,
    )


def _arrays(frontend: Any, outputs: Any) -> list[Any]:
    found: list[Any] = []
    frontend.map_outputs(lambda leaf: found.append(frontend.to_numpy(leaf)), outputs)
    return found


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


# ------------------------------------------------------------------ printing


def _as_text(title: str, sections: Sections) -> str:
    lines = [title]
    for heading, rows in sections:
        width = max(len(left) for left, _ in rows)
        lines += ["", heading]
        lines += [
            f"  {left:<{width}}{'   ' if width else ''}{right}".rstrip() for left, right in rows
        ]
    return "\n".join(lines)


def _as_rich(title: str, sections: Sections) -> Iterator[Any]:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    yield Text(title, style="bold")
    for heading, rows in sections:
        table = Table.grid(padding=(0, 3))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for left, right in rows:
            table.add_row(Text(left), Text(right)) if left else table.add_row("", Text(right))
        yield Text(f"\n{heading}", style="bold")
        yield Padding(table, (0, 0, 0, 2))
