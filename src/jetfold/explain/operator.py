"""What is carried for an operator: vectors per method, the minimal basis and its product rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number as AnyNumber
from typing import Any

from ..core.directions import METHODS, Direction, Scheme, scheme
from ..core.polynomial import RADIAL, Polynomial, in_coordinates
from ..core.symbols import flat
from ..derivatives import Derivatives
from ..named import Stacked, Weighted, WeightedByMatrix, value
from ..operators import Operator, coefficient_of
from ..transform import Transform
from .text import Printed, Sections, cut, cut_sum


@dataclass(frozen=True, repr=False)
class Explanation(Printed):
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
        as_one: of an equation that is text: what is linear in it, and how many vectors are carried
            where that is asked for as one operator; None where these are not fewer.
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
    as_one: tuple[str, int] | None = None

    def sections(self) -> Sections:
        """What is printed, long lists cut."""
        carried = [
            (method, f"{count:>4} = " + " + ".join(map(str, self.by_degree[method])))
            for method, count in self.vectors.items()
        ]
        members: list[tuple[str, str]] = []
        for degree, (labels, polynomials) in enumerate(zip(self.labels, self.basis, strict=True)):
            named = [
                label if label == polynomial else f"{label} = {cut_sum(polynomial)}"
                for label, polynomial in zip(labels, polynomials, strict=True)
            ]
            sums = any(" + " in text or " - " in text for text in named)
            lines = cut(named, 3) if sums else [", ".join(cut(named, 6))]
            members += [("" if k else f"degree {degree}", text) for k, text in enumerate(lines)]
        rules = []
        for of_degree in self.products:
            for text in cut(of_degree, 3):
                left, equals, right = text.partition(" = ")
                rules.append((left, f"= {cut_sum(right, 7)}") if equals else ("", left))
        found: Sections = [("Vectors carried at every node, by degree 0, 1, …", carried)]
        if self.directions:
            forms = [f"{name} = {cut_sum(form)}" for name, form in self.directions]
            found.append(("Directions", [("", text) for text in cut(forms, 6)]))
        found.append(("Basis of the minimal algebra", members))
        constants = f"{self.entries} structure constant{'s' * (self.entries != 1)}"
        heading = f"Product rule (u_w means w(∂)u); {constants} beside those of u and v"
        if rules:
            found.append((heading, rules))
        found.append(
            (
                "Read-out",
                [(cut_sum(left), f"= {cut_sum(right, 7)}") for left, right in self.readout],
            )
        )
        if self.as_one is not None:
            linear, vectors = self.as_one
            text = f"{vectors} vectors: d(operator)(u) in jetfold.residual"
            found.append(("What is linear as one operator", [(cut_sum(linear), text)]))
        return found

    @property
    def title(self) -> str:
        """The first line."""
        s = "s" * (self.coordinates != 1)
        return f"{cut_sum(self.operator)}, on {self.coordinates} coordinate{s}"


def explain_operator(operator: Any, coordinates: int | None, title: str = "") -> Explanation:
    """What the methods carry for an operator, or a nesting of operators; under a title of their
    own their names are left out."""
    subject = _subject(operator, coordinates, title)
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


_Part = tuple[str, tuple[tuple[str, Polynomial], ...]]


@dataclass(frozen=True)
class _Subject:
    """What is explained.

    Attributes:
        parts: (name, [(coefficient, symbol), …]) of every operator, the coefficient "" or text.
    """

    text: str
    coordinates: int
    names: Mapping[int, str]
    parts: tuple[_Part, ...]

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


def _subject(operator: Any, coordinates: int | None, title: str) -> _Subject:
    found = list(_leaves(operator, ""))
    transforms = [(path, leaf) for path, leaf in found if isinstance(leaf, Transform)]
    if not transforms:
        raise TypeError(
            "explain takes an Operator made with partials(n), laplacian or biharmonic with "
            f"coordinates=n, or a nesting of operators; got {type(operator).__name__}"
            + (" (the operator itself, not operator(f))" if callable(operator) else "")
        )
    total = _coordinates([leaf for _, leaf in transforms], coordinates)
    names = {i: f"d{i}" for i in range(total)}
    parts: list[_Part] = []
    for path, leaf in found:
        name = f"{path}: {leaf}" if path and not title else str(leaf)
        if isinstance(leaf, AnyNumber):
            leaf = 0 * value + leaf
        if isinstance(leaf, Operator):
            names |= {v: text for v, text in leaf.names.items() if v != RADIAL}
            parts.append((name, tuple(_terms(leaf, total))))
        elif isinstance(leaf, Stacked):
            parts += [
                (f"{name}[{k}]", (("", symbol),)) for k, symbol in enumerate(_entries(leaf, total))
            ]
        else:
            raise TypeError(f"expected an operator or a number at {path or 'the top'}, got {leaf}")
    text = str(operator) if isinstance(operator, Transform) else ", ".join(p for p, _ in parts)
    return _Subject(title or text, total, names, tuple(parts))


def _coordinates(transforms: Sequence[Transform], coordinates: int | None) -> int:
    """The number of coordinates: what the operators say, or what was given."""
    for transform in transforms:
        if isinstance(transform, (Weighted, WeightedByMatrix)):
            raise TypeError(
                "explain(weighted_laplacian) depends on sigma, but only on its number of columns "
                "R: it carries what the Laplacian in R coordinates carries, "
                "explain(laplacian, coordinates=R)"
            )
    if coordinates is not None and (
        not isinstance(coordinates, int) or isinstance(coordinates, bool) or coordinates < 1
    ):
        raise ValueError(f"coordinates must be a positive integer, got {coordinates!r}")
    fixed = [t for t in transforms if t.coordinates is not None]
    if len({t.coordinates for t in fixed}) > 1:
        raise ValueError(
            f"{fixed[0]!r} and {fixed[1]!r} do not combine: they act on {fixed[0].coordinates} and "
            f"on {fixed[1].coordinates} coordinates; take all from one partials(n)"
        )
    if not fixed and coordinates is None:
        name = transforms[0].name
        raise ValueError(
            f"explain({name}) needs the number of coordinates: explain({name}, coordinates=3)"
        )
    if fixed and coordinates not in (None, fixed[0].coordinates):
        raise ValueError(
            f"{fixed[0]!r} acts on {fixed[0].coordinates} coordinates, got coordinates="
            f"{coordinates}; leave coordinates out, or make the operator with "
            f"partials({coordinates})"
        )
    total = fixed[0].coordinates if fixed else coordinates
    assert total is not None
    return total


def _entries(stacked: Stacked, n: int) -> tuple[Polynomial, ...]:
    return flat(stacked.symbols.at(n))


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Derivatives):
        yield from _leaves(tree.tree, path)
    elif isinstance(tree, Mapping):
        for key, member in tree.items():
            yield from _leaves(member, f"{path}[{key!r}]" if path else str(key))
    elif isinstance(tree, (list, tuple)):
        for k, member in enumerate(tree):
            yield from _leaves(member, f"{path}[{k}]")
    else:
        yield path, tree


def _terms(operator: Operator, n: int) -> Iterator[tuple[str, Polynomial]]:
    """The symbols of an operator, each with the coefficient that stays outside."""
    yield "", in_coordinates(operator.symbol, n)
    for term in operator.outside:
        yield coefficient_of(term), in_coordinates(term.symbol, n)


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
