"""PyTorch: jets on `__torch_function__`."""

import torch

from ..versions import supported

with supported("torch", torch.__version__):
    from . import watching_private as watching_private  # with all that PyTorch does not document
