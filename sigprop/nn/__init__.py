"""torch modules that the theory needs and torch lacks."""

from sigprop.nn.mlp import DeepMLP

__all__ = ["DeepMLP"]
