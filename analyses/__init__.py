"""One question a file; ``python -m analyses`` answers all of them anew and draws every figure."""
