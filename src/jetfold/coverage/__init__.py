"""What `jetfold coverage` finds out: which operations have derivatives here, and how.

rows    one operation and how it fares
page    the page of the docs: a section per framework, and back
torch   PyTorch's own test database, run and checked
jax     JAX's own test cases of its primitives, likewise
"""
