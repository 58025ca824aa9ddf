"""Runs in an environment with neural-tangents: seconds and NaN cells of what bench_theory times."""

import json
import math
import os
import sys
import time
import warnings

os.environ["JAX_PLATFORMS"] = "cpu"
warnings.simplefilter("ignore")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402

jax.config.update("jax_enable_x64", True)
C0, ALPHA = 0.6, 0.2
INPUTS = jnp.array([[1.0, 0.0], [C0, math.sqrt(1 - C0**2)]]) * math.sqrt(2)  # mean square 1
LAYERS = {
    "leaky_relu": lambda: stax.LeakyRelu(ALPHA),
    "erf": stax.Erf,
    "gelu": stax.Gelu,
    "tanh": lambda: stax.ElementwiseNumerical(jnp.tanh, deg=25),
}


def layer_of(name, gain, bias):
    return stax.serial(LAYERS[name](), stax.Dense(1, W_std=gain, b_std=bias))[2]


def first_kernel(gain, bias):
    """The kernel after the first weight layer."""
    return stax.serial(stax.Identity(), stax.Dense(1, W_std=gain, b_std=bias))[2](INPUTS, get=None)


def last_layer(name, depth):
    def one(gain, bias):
        layer = layer_of(name, gain, bias)
        kernel = jax.lax.fori_loop(0, depth - 1, lambda _, k: layer(k), first_kernel(gain, bias))
        return kernel.nngp

    return jax.jit(jax.vmap(one))


def every_layer(depth):
    def path(gain, bias):
        layer = layer_of("leaky_relu", gain, bias)

        def step(kernel, _):
            after = layer(kernel)
            return after, after.nngp

        return jax.lax.scan(step, first_kernel(gain, bias), None, length=depth - 1)[1]

    return jax.jit(path)


def timed(call, *arguments, warm=1):
    seconds = []
    for _ in range(1 + warm):
        start = time.perf_counter()
        value = jax.block_until_ready(call(*arguments))
        seconds.append(time.perf_counter() - start)
    nan = int(jnp.isnan(value).any(axis=(-2, -1)).sum())
    return {"first": seconds[0], "warm": min(seconds[1:] or seconds), "nan": nan}


def main():
    cells, depth, layers = map(int, sys.argv[1:])
    axes = np.meshgrid(np.linspace(0.1, 10, cells), np.linspace(0, 5, cells), indexing="ij")
    gains, biases = (jnp.array(axis.ravel()) for axis in axes)
    critical = math.sqrt(2 / (1 + ALPHA**2))
    found = {"layers": timed(every_layer(layers), critical, 0.0, warm=3)}
    for name in LAYERS:
        warm = 0 if name == "tanh" else 3
        found[name] = timed(last_layer(name, depth), gains, biases, warm=warm)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
