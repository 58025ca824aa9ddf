"""Runs a script in an environment of its own with neural-tangents, which needs another numpy."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NEEDS = (
    "jax==0.4.30", "jaxlib==0.4.30", "neural-tangents==0.6.5", "tf2jax<0.3.7", "numpy<2",
    "scipy<1.14",
)  # fmt: skip


def from_neural_tangents(script: str, *arguments: str) -> Any:
    """What a script of this folder prints last, as JSON; empty where it cannot be run.

    Args:
        script: name of the file.
        arguments: for it.
    """
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        commands = (
            [sys.executable, "-m", "venv", folder],
            [python, "-m", "pip", "install", "--quiet", *NEEDS],
            [python, str(Path(__file__).parent / script), *arguments],
        )
        try:
            for command in commands:
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, timeout=400
                )
        except (OSError, subprocess.SubprocessError) as error:
            print(f"  neural-tangents is left out: {type(error).__name__} at {command[:4]}")
            return {}
        return json.loads(done.stdout.splitlines()[-1])
