"""What torch.compile has to be told about jets.

Dynamo (PyTorch 2.13) takes an operator between an object with `__torch_function__` and a tensor for
the tensor's: it evaluates `jet @ tensor` as `tensor @ jet`, and `jet += tensor` as `jet = tensor +
jet`, which no view of the jet sees; `jet @ jet` it does not know. To Python all of these are
methods of the jet, and so they are to Dynamo after `teach`.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

_NAMES = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow")
LEFT = {getattr(operator, name): f"__{name}__" for name in _NAMES}
LEFT |= {getattr(operator, f"i{name}"): f"__i{name}__" for name in _NAMES}
LEFT |= {getattr(operator, name): f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne")}
RIGHT = {getattr(operator, name): f"__r{name}__" for name in _NAMES}

_taught = False


def teach(jet_class: type) -> None:
    """Have Dynamo, once it is loaded, call the operators of jets as their methods."""
    global _taught
    if _taught or "torch._dynamo.variables.builtin" not in sys.modules:
        return
    from torch._dynamo.variables.builtin import BuiltinVariable
    from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

    original = BuiltinVariable.call_function

    def is_jet(variable: Any) -> bool:
        return isinstance(variable, UserDefinedObjectVariable) and issubclass(
            variable.python_type(), jet_class
        )

    def call_function(self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
        if len(args) == 2 and not kwargs:
            if self.fn in LEFT and is_jet(args[0]):
                return args[0].call_method(tx, LEFT[self.fn], [args[1]], {})
            if self.fn in RIGHT and is_jet(args[1]):
                return args[1].call_method(tx, RIGHT[self.fn], [args[0]], {})
        return original(self, tx, args, kwargs)

    BuiltinVariable.call_function = call_function
    _taught = True
