"""sigprop: signal-propagation theory, initialization and measurement for deep networks.

Names resolve lazily (PEP 562): ``import sigprop`` loads neither torch, scipy nor matplotlib. The
one list of them is ``__init__.pyi``.
"""

from sigprop._lazy import lazy_names

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
