"""Pictures of programs, by networkx and matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import networkx
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..core.axes import Contracted, Summed
from .program import Leaf, Node

COLOURS = {"sum": "#D55E00", "passed": "#E69F00", "product": "#9FC7E5", "input": "#BBBBBB"}
PLAIN = "#DDDDDD"


def draw(nodes: Sequence[Node], passed: set[int], title: str, path: Path) -> None:
    """A program from its inputs (top) to its results (bottom).

    Args:
        passed: the numbers of the nodes that sums pass on their way up.
    """
    graph = networkx.DiGraph()
    for node in nodes:
        layer = 1 + max(
            (graph.nodes[x.number]["layer"] for x in node.inputs),
            default=-1,
        )
        graph.add_node(node.number, layer=layer)
        graph.add_edges_from((x.number, node.number) for x in node.inputs)
    layers = [graph.nodes[n]["layer"] for n in graph] or [0]
    widest = max(layers.count(layer) for layer in set(layers))
    places = networkx.multipartite_layout(graph, subset_key="layer", align="horizontal")
    height = 1 + max(layers)
    positions = {n: (x, -graph.nodes[n]["layer"]) for n, (x, _) in places.items()}
    size = (max(6.0, 1.5 * widest), min(200.0, max(4.0, 0.62 * height)))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    networkx.draw_networkx_edges(
        graph, positions, ax=axis, edge_color="#888888", arrowsize=8, node_size=900
    )
    by_number = {node.number: node for node in nodes}
    for n, (x, y) in positions.items():
        node = by_number[n]
        shape = "×".join(map(str, node.shape)) or "scalar"
        axis.text(
            x,
            y,
            f"{node.name.partition('.')[0]}\n{shape}",
            ha="center",
            va="center",
            fontsize=7,
            bbox={"boxstyle": "round,pad=0.25", "fc": _colour(node, passed), "ec": "#555555"},
        )
    handles = [
        Line2D([], [], marker="s", linestyle="", markersize=9, color=colour, label=name)
        for name, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    axis.set_title(title, fontsize=11)
    axis.margins(0.12)
    axis.axis("off")
    figure.savefig(path)


def _colour(node: Node, passed: set[int]) -> str:
    if isinstance(node.kind, Summed):
        return COLOURS["sum"]
    if node.number in passed:
        return COLOURS["passed"]
    if isinstance(node.kind, Contracted):
        return COLOURS["product"]
    return COLOURS["input"] if isinstance(node.kind, Leaf) else PLAIN
