"""Writes docs/gallery/index.md from the problems: `python examples/gallery/page.py`."""

from __future__ import annotations

import inspect
from pathlib import Path

from problems import PROBLEMS, Problem
from runs import read

PAGE = Path(__file__).parents[2] / "docs" / "gallery" / "index.md"

TITLES = {"jax": "JAX", "torch": "PyTorch"}

LIMIT = 600
"""Seconds that a full run may take."""

HEAD = """# Gallery

Ten equations as one writes them for `jetfold.residual`, each with a known solution. The same code
serves PyTorch and JAX. A test holds every equation against its solution in both frameworks, and
trains a network on it; the pictures are of full runs, which take up to a minute of one processor
core each:

```sh
python examples/gallery/solve.py burgers --framework jax   # one of them
python examples/gallery/solve.py --quick                   # all, test-sized
python examples/gallery/solve.py --record --framework jax  # all full runs, for this page; or torch
python examples/gallery/page.py                            # writes this page
```

One small tanh network of all coordinates gives all fields. Its loss is the mean square of the
residual in the box and of the misfit where values are given
(`examples/gallery/solve.py`). How an equation is written: [Writing problems](../writing.md).
"""


def section(name: str, problem: Problem) -> str:
    """The equation, its code and what a run reaches."""
    equation = inspect.getsource(problem.equation).strip()
    call = f'residual = jf.residual({problem.equation.__name__}, "{problem.coordinates}")'
    runs = "\n".join(
        f"| {TITLES[run.framework]} {run.version} | {run.steps} | {run.error:.1e} | {run.seconds} |"
        for run in read()
        if run.problem == name
    )
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

| a full run in | steps | relative error | seconds of one core |
| --- | --- | --- | --- |
{runs}
| at most | {problem.full} | {full:.1e} | {LIMIT} |

A test-sized run of {problem.quick} steps reaches {quick:.0e}.
{picture if (PAGE.parent / f"{name}.png").exists() else ""}"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(section(name, problem) for name, problem in PROBLEMS.items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
