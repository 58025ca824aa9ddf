"""Functions that sweeps in the tests call; worker processes import them, so they load little."""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path


def same(value):
    return value


def square(x, scale=1):
    return {"square": scale * x * x, "half": x / 2}


def several(n):
    return [{"step": step, "value": step * n} for step in range(n)]


def fails_on_odd(x):
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


def leaves(x):
    if x == 1:
        sys.exit("leaving")
    return x


def deadly(x, by=signal.SIGKILL):
    """Ends its process for x = 5."""
    if x == 5:
        os.kill(os.getpid(), by)
    return x


def deadly_once(x, place):
    """Ends its process the first time that it is called with x = 2."""
    mark = Path(place) / "died"
    if x == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def marked(x, place, seconds=0.0):
    """Leaves a line for each call, so that calls can be counted, with the process that ran it."""
    with (Path(place) / "calls").open("a") as file:
        file.write(f"{x} {os.getpid()}\n")
    time.sleep(seconds)
    return x / 7


def calls(place):
    """The calls of ``marked``: (x, process) each."""
    path = Path(place) / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def lucky(x):
    """Global random numbers of all three kinds."""
    import numpy as np

    return {"python": random.random(), "numpy": float(np.random.rand())}  # noqa: NPY002


def lucky_torch(x):
    import torch

    threads = torch.get_num_threads()
    return {"torch": torch.rand(()).item(), "threads": threads, "python": random.random()}


def product(seed, width=1200):
    """A product whose last digits depend on the number of threads."""
    import torch

    a = torch.randn(width, width, generator=torch.Generator().manual_seed(seed))
    return {"sum": (a @ a).double().sum().item(), "threads": torch.get_num_threads()}


def settings(x):
    """What a process begins with."""
    return {"omp": os.environ.get("OMP_NUM_THREADS"), "process": os.getpid()}


def on(x, device, place):
    """Runs alone on its device, or says so."""
    lock = Path(place) / device.replace(":", "-")
    try:
        lock.touch(exist_ok=False)
    except FileExistsError:
        return {"device": device, "alone": False}
    time.sleep(0.02)
    lock.unlink()
    return {"device": device, "alone": True}


def an_object(x):
    return object()


def no_argument():
    return 1


class Stateful:
    def __call__(self, x):
        return x

    def method(self, x):
        return x


def draws_beside():
    """A thread of the engine that draws all the time, as Dask's do now and then."""
    core, compression, loop, sizes = (
        sys.modules[name]
        for name in (
            "distributed.comm.core", "distributed.protocol.compression", "tornado.ioloop",
            "dask.sizeof",
        )
    )  # fmt: skip

    def draw():
        while True:
            core.random.uniform(0, 1)
            compression.randint(0, 9)
            loop.random.random()
            sizes.random.random()
            time.sleep(1e-5)

    threading.Thread(target=draw, daemon=True).start()


def takes_out(x, config):
    """Changes what it is given."""
    return config.pop("lr")


def unsettles(x):
    """What it finds, and then it changes all of it."""
    import warnings

    import numpy as np
    import torch

    found = {
        "dtype": str(torch.get_default_dtype()), "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "device": str(torch.empty(0).device), "over": np.geterr()["over"],
        "folder": Path.cwd().name, "variable": os.environ.get("SIGPROP_X"),
        "strict": any(kind == "error" and said is None for kind, said, *_ in warnings.filters),
    }  # fmt: skip
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_default_device("meta")
    np.seterr(over="raise")
    os.chdir("/")
    os.environ["SIGPROP_X"] = "1"
    warnings.simplefilter("error")
    return found


def kept_by_a_thread(x):
    """Leaves a thread behind that does not end."""
    import threading

    threading.Thread(target=time.sleep, args=(1000,)).start()
    return x


def stubborn(x, place):
    """Does not heed a polite end."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    (Path(place) / "began").touch()
    while True:
        time.sleep(0.1)


def default_dtype(x):
    import torch

    return str(torch.zeros(1).dtype)


def needs(x, place):
    """Raises as long as a file is not there."""
    if not Path(place).exists():
        raise FileNotFoundError(place)
    return x


def marked_with_torch(x, place):
    """Loads torch when it is called, and leaves a line for each call."""
    import torch

    return marked(x, place) + torch.zeros(1).item()


def prints(x):
    print("loss", x)
    return x


def ends_its_module(x, place):
    """Ends its process for x = 2, and no other one can be started any more."""
    if x == 2:
        with Path(place).open("a") as file:
            file.write("\nraise SystemExit(3)\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return x
