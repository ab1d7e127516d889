"""Doctests are collected from here; modules for tools that may be absent have none."""

collect_ignore = ["jetfold/deepxde", "jetfold/pina.py"]
