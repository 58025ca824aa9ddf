"""Signal-propagation theory: plain float64 in, plain float64 out. Never torch.

Names are loaded when first asked for; the leaky theory loads numpy only. The one list of them is
``__init__.pyi``.
"""

from sigprop._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
