"""Recurrent layers step by step: what nn.LSTM, nn.GRU and nn.RNN call, and their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

Cell = Callable[..., Any]
"""From gates W_i x + b_i, the state (h,) or (h, c), and W_h, b_h to the next state."""


def _lstm(gates: Any, state: Any, w: Any, b: Any) -> Any:
    h, c = state
    i, f, g, o = (gates + F.linear(h, w, b)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(gates: Any, state: Any, w: Any, b: Any) -> Any:
    (h,) = state
    (r, z, n), (hr, hz, hn) = gates.chunk(3, -1), F.linear(h, w, b).chunk(3, -1)
    n, z = torch.tanh(n + torch.sigmoid(r + hr) * hn), torch.sigmoid(z + hz)
    return (n + z * (h - n),)


def _plain(function: Any) -> Cell:
    return lambda gates, state, w, b: (function(gates + F.linear(state[0], w, b)),)


CELLS: dict[str, Cell] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _plain(torch.tanh),
    "rnn_relu": _plain(torch.relu),
}


def layers(name: str) -> Callable[..., Any]:
    """lstm, gru, …: all steps of all layers. Sequences of unlike length have another signature."""
    cell = CELLS[name]

    def rule(
        input: Any,
        hx: Any,
        params: Sequence[Any],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        if not isinstance(has_biases, bool):
            return NotImplemented  # a packed sequence
        states = hx if isinstance(hx, (tuple, list)) else (hx,)
        x = input.transpose(0, 1) if batch_first else input
        each, ways = (4 if has_biases else 2), (2 if bidirectional else 1)
        projected = len(params) == num_layers * ways * (each + 1)
        last: list[Any] = []
        for layer in range(num_layers):
            if layer and dropout:
                x = F.dropout(x, dropout, train)
            outputs = []
            for way in range(ways):
                n = layer * ways + way
                size = each + projected
                w_i, w_h, *rest = params[n * size : (n + 1) * size]
                b_i, b_h = rest[:2] if has_biases else (None, None)
                gates = F.linear(x, w_i, b_i)
                state = tuple(s[n] for s in states)
                found = []
                for t in range(x.shape[0])[:: -1 if way else 1]:
                    state = cell(gates[t], state, w_h, b_h)
                    if projected:
                        state = (F.linear(state[0], rest[-1]), *state[1:])
                    found.append(state[0])
                outputs.append(torch.stack(found[::-1] if way else found))
                last.append(state)
            x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        out = x.transpose(0, 1) if batch_first else x
        return (out, *(torch.stack(parts) for parts in zip(*last, strict=True)))

    return rule


def one_step(name: str) -> Callable[..., Any]:
    """lstm_cell, gru_cell, …"""
    cell = CELLS[name]

    def rule(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
        state = cell(
            F.linear(input, w_ih, b_ih), tuple(hx) if name == "lstm" else (hx,), w_hh, b_hh
        )
        return state if name == "lstm" else state[0]

    return rule
