"""For the reference: docstrings as they are meant to be read."""

from __future__ import annotations

import re
from typing import Any

import griffe

from jetfold import named
from jetfold.transform import Transform


class Docs(griffe.Extension):
    """Examples are code; `Any` says nothing; operators are values with docstrings of their own."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            blocks = re.split(r"\n{2,}", obj.docstring.value)
            fenced = [f"```pycon\n{b}\n```" if b.startswith(">>> ") else b for b in blocks]
            obj.docstring.value = "\n\n".join(fenced).replace("```\n\n```pycon\n", "\n")

    def on_function_instance(self, *, func: Any, **_: Any) -> None:
        if str(func.returns) == "Any":
            func.returns = None
        for parameter in func.parameters:
            if str(parameter.annotation) == "Any":
                parameter.annotation = None

    def on_attribute_instance(self, *, attr: Any, **_: Any) -> None:
        found = getattr(named, attr.name, None)
        if attr.parent.path == named.__name__ and isinstance(found, Transform):
            attr.docstring = griffe.Docstring(found.__doc__ or "", parent=attr)
            attr.value = None
            attr.labels.clear()
            self.on_instance(obj=attr)
