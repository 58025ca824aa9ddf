"""From a torch model to the arrays whose linear regions and kinks are counted, exactly.

torch is loaded with the first torch model, not before: a network of arrays passes as it is. The one
list of names is ``__init__.pyi``.
"""

from sigprop._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
