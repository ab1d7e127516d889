"""Composite operations of PyTorch in terms of simpler ones, for jets.

Signatures follow torch.nn.functional and torch; the formulas are those of its documentation.
"""
