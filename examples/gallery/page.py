"""Writes docs/gallery/index.md from the problems: `python examples/gallery/page.py`."""

from __future__ import annotations

import inspect
from pathlib import Path

from problems import PROBLEMS, Problem

PAGE = Path(__file__).parents[2] / "docs" / "gallery" / "index.md"

HEAD = """# Gallery

Ten equations as one writes them for `jetfold.residual`, each with a known solution. The same code
serves PyTorch and JAX. A test holds every equation against its solution in both frameworks, and
trains a network on it; the pictures are of full runs, which take minutes:

```sh
python examples/gallery/solve.py burgers --framework jax   # one of them
python examples/gallery/solve.py --quick                   # all, test-sized
```

One small tanh network of all coordinates gives all fields. Its loss is the mean square of the
residual in the box and of the misfit where values are given
(`examples/gallery/solve.py`). How an equation is written: [Writing problems](../writing.md).
"""


def section(name: str, problem: Problem) -> str:
    """The equation, its code and what a run reaches."""
    equation = inspect.getsource(problem.equation).strip()
    call = f'residual = jf.residual({problem.equation.__name__}, "{problem.coordinates}")'
    picture = f"\n![{problem.title}: the network and its error]({name}.png)\n"
    quick, full = problem.error
    return f"""
## {problem.title}

    {problem.formula}

{problem.about}

```python
{equation}


{call}
```

Relative error of all fields: at most {full:.0e} after a full run, {quick:.0e} after a test-sized
one of {problem.quick} steps.
{picture if (PAGE.parent / f"{name}.png").exists() else ""}"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(section(name, problem) for name, problem in PROBLEMS.items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
