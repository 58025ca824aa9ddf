"""Runs in an environment with neural-tangents: kernels of the nets that model_zoo predicts."""

import json
import os
import sys
import warnings

os.environ["JAX_PLATFORMS"] = "cpu"
warnings.simplefilter("ignore")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402

jax.config.update("jax_enable_x64", True)
ALPHA = 0.2


def convolution(gain):
    return stax.Conv(1, (3, 3), padding="SAME", W_std=gain)


def leaky():
    return stax.LeakyRelu(ALPHA)


def dense(gain):
    return stax.Dense(1, W_std=gain)


NETS = {
    "dense, leaky ReLU": (dense(1.3), leaky(), dense(1.4), leaky(), dense(1.1)),
    "dense, erf": (dense(1.3), stax.Erf(), dense(1.5), stax.Erf(), dense(1.1)),
    "convolutions": (
        convolution(1.4), leaky(), convolution(1.4), leaky(), stax.Flatten(), dense(1.1),
    ),
    "convolutions, average pools": (
        convolution(1.4), leaky(), stax.AvgPool((2, 2), (2, 2)), convolution(1.4), leaky(),
        stax.GlobalAvgPool(), dense(1.1),
    ),
}  # fmt: skip


def main():
    images = jnp.array(np.array(json.loads(sys.argv[1]))).transpose(0, 2, 3, 1)
    found = {}
    for name, layers in NETS.items():
        inputs = images.reshape(len(images), -1) if name.startswith("dense") else images
        kernel = stax.serial(*layers)[2](inputs, get="nngp")
        found[name] = np.asarray(kernel).tolist()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
