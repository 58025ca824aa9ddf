"""Real architectures written in plain torch, with the initialization of the libraries they are in.

Smaller than the originals: narrower, fewer blocks, so that a run takes part of a second.
"""
