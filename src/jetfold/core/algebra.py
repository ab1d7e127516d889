"""Jet algebras: which coefficients are carried, and how they multiply.

Let W be the span of the wanted symbols and of all their partial derivatives, with a basis e_0 = 1,
e_1, … . Hörmander's form of the Leibniz rule says that W is closed under products,

    w(ξ+η) = Σ_{a,b} c^w_{ab} e_a(ξ) e_b(η),

so the coefficients û_a = (e_a(∂)u)(x) of a product follow from those of its factors. Vanilla Taylor
mode, collapsed Taylor mode and the minimal scheme differ in the symbols alone (`directions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import count
from math import factorial, prod
from weakref import WeakValueDictionary

from .polynomial import Monomial, Number, Polynomial, divisors, inverse_system

Entry = tuple[int, int, int, float]

MOST_WEIGHTS = 2**16
"""Larger tables are not looked at for structure."""


class Product:
    """The structure constants c^w_{ab} with deg e_a = i, deg e_b = j, deg w = m (all ≥ 1).

    Attributes:
        entries: (w, a, b, c), positions within their degree, sorted.
        rows: the entries by output: (w, ((a, b, c), …)).
        diagonal: the weights c_a if the product is the one sum Σ_a c_a u_a v_a, over all a of
            both degrees and into the only w of its degree, else None.
        rowwise: the weights c_w if the product is c_w u_w v_w for every w, as along directions
            that are kept apart, else None.
        aligned: per w the weights c^w_{aa}, if only rows of one place meet (a = b): of `rowwise` in
            one list; else None.
        size: how many e_w there are.
        equal: whether all c are the same.
        factor: what that is, else 1.
        square: for u = v the same sum with (a, b) and (b, a), or (i, j) and (j, i), taken together.
    """

    def __init__(
        self,
        i: int,
        j: int,
        m: int,
        entries: tuple[Entry, ...],
        sizes: Sequence[int],
        *,
        squared: bool = False,
    ) -> None:
        self.i, self.j, self.m, self.size = i, j, m, sizes[m]
        self.entries = entries
        rows: dict[int, list[tuple[int, int, float]]] = {}
        for w, a, b, c in entries:
            rows.setdefault(w, []).append((a, b, c))
        self.rows = tuple((w, tuple(terms)) for w, terms in sorted(rows.items()))
        one_sum = [(w, a, b) for w, a, b, _ in entries] == [(0, a, a) for a in range(sizes[i])]
        whole = sizes[i] == sizes[j] and sizes[m] == 1
        self.diagonal = tuple(c for *_, c in entries) if whole and one_sum else None
        same_place = [entry[:3] for entry in entries] == [(r, r, r) for r in range(sizes[m])]
        equal = sizes[i] == sizes[j] == sizes[m]
        self.rowwise = tuple(c for *_, c in entries) if equal and same_place else None
        self.aligned = self._aligned(sizes)
        weights = {c for *_, c in entries}
        self.equal = len(weights) == 1
        self.factor = float(weights.pop()) if self.equal else 1.0
        self.square = self
        if squared:
            return
        if i != j:
            doubled = tuple((w, a, b, 2 * c) for w, a, b, c in entries)
            self.square = Product(i, j, m, doubled, sizes, squared=True)
        elif any(a > b for _, a, b, _ in entries):
            merged: dict[tuple[int, int, int], float] = {}
            for w, a, b, c in entries:
                key = (w, min(a, b), max(a, b))
                merged[key] = merged.get(key, 0.0) + c
            halved = tuple((*key, c) for key, c in sorted(merged.items()))
            self.square = Product(i, j, m, halved, sizes, squared=True)

    def _aligned(self, sizes: Sequence[int]) -> tuple[tuple[float, ...], ...] | None:
        if self.rowwise is not None:
            return (self.rowwise,)
        if sizes[self.i] != sizes[self.j] or any(a != b for _, a, b, _ in self.entries):
            return None
        weights = [[0.0] * sizes[self.i] for _ in range(sizes[self.m])]
        if len(weights) * sizes[self.i] > MOST_WEIGHTS:
            return None
        for w, a, _, c in self.entries:
            weights[w][a] = c
        return tuple(map(tuple, weights))


_keys = count()
_algebras: WeakValueDictionary[int, JetAlgebra] = WeakValueDictionary()


class JetAlgebra:
    """A finite-dimensional local algebra of jets: made once, never changed, compared by identity.

    Attributes:
        basis: the basis polynomials e_0 = 1, e_1, …, by ascending degree.
        pivots: for each of them the monomial at which it is 1 and all others are 0.
        sizes: how many of them have degree 0, 1, …, order.
        products: per degree m, the structure constants of every degree pair that contributes to
            it; products with the unit are implied.
        linear: per degree, the entries (w, r, c): e_w holds c·ξ_r, so x_r is seeded with c there.
        readout: per wanted symbol, its coordinates (degree, w, c).
        order: the highest degree K: φ(u + N) = Σ_{k ≤ K} φ^{(k)}(u)/k! N^k.
        vectors: how many vectors are carried at every node: the dimension of the algebra.
        key: a number that stands for it where a tracer takes only numbers (see `monomials`).
    """

    # Plain attributes: torch.compile reads them while it traces.
    def __init__(
        self,
        basis: tuple[Polynomial, ...],
        pivots: tuple[Monomial, ...],
        sizes: tuple[int, ...],
        products: tuple[tuple[Product, ...], ...],
        linear: tuple[tuple[tuple[int, int, float], ...], ...],
        readout: tuple[tuple[tuple[int, int, float], ...], ...],
    ) -> None:
        self.basis, self.pivots, self.sizes = basis, pivots, sizes
        self.products, self.linear, self.readout = products, linear, readout
        self.order = len(sizes) - 1
        self.vectors = sum(sizes)
        self.key = next(_keys)
        _algebras[self.key] = self

    def coordinates(self, polynomial: Polynomial) -> tuple[Number, ...]:
        """The coordinates of a member of the span in the basis: its coefficients at the pivots."""
        return tuple(polynomial.terms.get(pivot, Fraction(0)) for pivot in self.pivots)

    def __repr__(self) -> str:
        return f"JetAlgebra(vectors={self.vectors}, by degree {'+'.join(map(str, self.sizes))})"


def algebra_of(key: int) -> JetAlgebra:
    """The algebra that has this key."""
    return _algebras[key]


@lru_cache(maxsize=1024)
def jet_algebra(
    wanted: tuple[Polynomial, ...], generators: tuple[Polynomial, ...] = ()
) -> JetAlgebra:
    """The algebra whose functionals are the wanted symbols, the generators and their derivatives.

    Args:
        wanted: the symbols to read out.
        generators: further symbols to carry (vanilla Taylor mode keeps every direction's top).
    """
    reduced = inverse_system((*wanted, *generators, Polynomial.constant(1)))
    pivots = sorted(reduced, key=lambda m: (len(m), m))
    order = len(pivots[-1])
    sizes = [0] * (order + 1)
    place: dict[Monomial, tuple[int, int]] = {}  # pivot -> (degree, position within the degree)
    for pivot in pivots:
        place[pivot] = (len(pivot), sizes[len(pivot)])
        sizes[len(pivot)] += 1
    return JetAlgebra(
        basis=tuple(reduced[pivot] for pivot in pivots),
        pivots=tuple(pivots),
        sizes=tuple(sizes),
        products=_products(reduced, place, sizes),
        linear=tuple(
            tuple(
                (place[pivot][1], monomial[0], float(c))
                for pivot in pivots
                if len(pivot) == degree
                for monomial, c in sorted(reduced[pivot].terms.items())
                if len(monomial) == 1
            )
            for degree in range(order + 1)
        ),
        readout=tuple(
            tuple((*place[m], float(c)) for m, c in sorted(symbol.terms.items()) if m in place)
            for symbol in wanted
        ),
    )


def _products(
    reduced: dict[Monomial, Polynomial],
    place: dict[Monomial, tuple[int, int]],
    sizes: Sequence[int],
) -> tuple[tuple[Product, ...], ...]:
    """c^w_{ab} = w[αβ] · C(α+β, α) for the pivots α of e_a and β of e_b.

    Each e_a is 1 at its own pivot and 0 at all others, so the coefficient of e_a(ξ) e_b(η) in
    w(ξ+η) is the coefficient of ξ^α η^β.
    """
    groups: dict[tuple[int, int, int], list[tuple[int, int, int, float]]] = {}
    for pivot, polynomial in reduced.items():
        m, w = place[pivot]
        for monomial, coefficient in polynomial.terms.items():
            for left, right, binomial in divisors(monomial):
                if left and right and left in place and right in place:
                    (i, a), (j, b) = place[left], place[right]
                    c = float(coefficient * binomial)
                    groups.setdefault((i, j, m), []).append((w, a, b, c))
    tables = [Product(*key, tuple(sorted(groups[key])), sizes) for key in sorted(groups)]
    return tuple(tuple(t for t in tables if t.m == m) for m in range(len(sizes)))


@lru_cache(maxsize=128)
def monomials(
    key: int,
) -> tuple[tuple[tuple[tuple[int, ...], tuple[tuple[int, float], ...]], ...], ...]:
    """The products of k basis coefficients that are not zero, for k = 1 … order.

    For the composition with a function of which only its k-th derivatives are known,

        φ(û)_w = Σ_k 1/k! Σ_{a_1 … a_k} (ê_{a_1} ⋯ ê_{a_k})_w · D^kφ(u)[û_{a_1}, …, û_{a_k}],

    Returns:
        per k the tuples ((a_1 ≤ … ≤ a_k), ((w, c), …)), with all orders of the a's and the 1/k!
        in c. Positions count through the whole basis. The algebra is named by its key.
    """
    algebra = algebra_of(key)
    offsets = [sum(algebra.sizes[:degree]) for degree in range(algebra.order + 1)]
    times: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for tables in algebra.products:
        for t in tables:
            for w, a, b, c in t.entries:
                factors = (offsets[t.i] + a, offsets[t.j] + b)
                times.setdefault(factors, []).append((offsets[t.m] + w, c))
    last: dict[tuple[int, ...], dict[int, float]]
    last = {(a,): {a: 1.0} for a in range(1, algebra.vectors)}
    found = [last]
    for _ in range(2, algebra.order + 1):
        following: dict[tuple[int, ...], dict[int, float]] = {}
        for positions, vector in last.items():
            for b in range(positions[-1], algebra.vectors):
                result: dict[int, float] = {}
                for a, weight in vector.items():
                    for w, c in times.get((a, b), ()):
                        result[w] = result.get(w, 0.0) + weight * c
                if any(result.values()):
                    following[(*positions, b)] = result
        found.append(following)
        last = following
    return tuple(
        tuple(
            (
                positions,
                tuple(
                    (w, c / prod(factorial(n) for n in Counter(positions).values()))
                    for w, c in sorted(vector.items())
                    if c
                ),
            )
            for positions, vector in of_order.items()
        )
        for of_order in found
    )
