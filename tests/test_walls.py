"""The order of the rooms and the three walls, each shown to be able to fail; the public names.

1. A room imports only from rooms above it, and no modules import each other in a circle.
2. The theory side never imports torch, and ``import sigprop`` loads nothing heavy.
3. Reading and measurement never import theory.
4. Plots never compute: neither theory, torch nor scipy.
"""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import sigprop
from sigprop._lazy import misspelled

PACKAGE = Path(sigprop.__file__).parent

ORDER = (
    "_lazy", "references", "records", "checks", "progress", "plots", "results", "data", "gaussian",
    "closed_form", "activations", "graph", "theory", "arrangement", "sweep", "nn", "reading",
    "slopes", "measurement", "prediction", "init", "piecewise", "regions", "kinks", "validation",
    "checking", "monitoring", "cli", "__main__",
)  # fmt: skip
"""Every room of the package: it imports only from those before it.

``kinks`` stands after ``regions`` because it imports it, and not the other way round. ``plots``
draws from rows and imports no room of results, so ``results`` can ask it for a picture.
"""

TORCH_FREE = (
    "_lazy", "references", "records", "checks", "progress", "plots", "results", "data", "gaussian",
    "closed_form", "activations", "graph", "theory", "arrangement", "sweep",
)  # fmt: skip
TORCH_WITH_A_MODEL = ("regions", "kinks")
"""Through ``piecewise``, when they are given a torch model: held in a live interpreter below."""
NOT_YET: set[str] = set()  # a room leaves this set when it is built
HEAVY = ("torch", "scipy", "matplotlib")
DOORS = {("data", "torch"), ("sweep.worker", "torch")}
"""(module, what it may import): opened by a file of torch, by a swept function that names torch."""


# One small import graph, read from the source


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by dotted name."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def named(package: Path) -> dict[str, set[str]]:
    """Every module of a package, and what running it may import by name."""
    known = modules(package)
    return {name: named_imports(name, path, known) for name, path in known.items()}


def imports(name: str, package: Path) -> set[str]:
    """The modules that running ``name`` may import, inside functions too; not under TYPE_CHECKING.

    ``from a import b`` is a or, where that is a module, a.b; importing a.b runs a as well. A name
    given to ``importlib.import_module`` as a plain string counts, and so does a name that a
    package resolves lazily.
    """
    found = named(package)[name]
    # The package's own __init__ resolves lazily (tested below): it opens no room by itself.
    return (found | _parents(found)) - {package.name}


def named_imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The same without the parents of what is imported."""
    package = name.split(".")[0]
    lazy = type_checking_names(known[package])
    home = name if path.name == "__init__.py" else name.rpartition(".")[0]
    taken: set[str] = set()
    for node in _run_time_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            taken |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = home.split(".")[: len(home.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            taken |= {
                f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names
            }
            later = type_checking_names(known[base]) if base in known else {}
            taken |= {later[a.name] for a in node.names if a.name in later}
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == package:
            taken |= {lazy[node.attr]} if node.attr in lazy else set()
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            taken |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    return taken


def _parents(names: set[str]) -> set[str]:
    return {".".join(n.split(".")[:i]) for n in names for i in range(1, n.count(".") + 1)}


@cache
def type_checking_names(path: Path) -> dict[str, str]:
    """Names imported under TYPE_CHECKING or in the stub, each with the module it is taken from."""
    stub = path.with_suffix(".pyi")
    blocks = [
        block.body
        for block in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
    ]
    if stub.exists():
        blocks.append(ast.parse(stub.read_text(encoding="utf-8")).body)
    return {
        alias.asname or alias.name: node.module or ""
        for block in blocks
        for node in block
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _run_time_nodes(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            nodes += [n for branch in child.orelse for n in (branch, *_run_time_nodes(branch))]
            continue
        nodes += [child, *_run_time_nodes(child)]
    return nodes


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def upward(package: Path, order: tuple[str, ...]) -> dict[tuple[str, str], list[str]]:
    """(room, room) → imports from a room that does not stand above the importing one."""
    known = modules(package)
    found: dict[tuple[str, str], list[str]] = {}
    for name in known:
        room = _room(name)
        for target in imports(name, package) & known.keys() if room else ():
            other = _room(target)
            if other != room and order.index(other) > order.index(room):
                found.setdefault((room, other), []).append(f"{name} -> {target}")
    return found


def circles(package: Path) -> list[set[str]]:
    """Sets of modules each of which, when it runs, may come to import all others of its set."""
    known = modules(package)
    reached = {}
    for name, by_name in named(package).items():
        # A module's own parents run before it: only an import by name goes back to them.
        reached[name] = (by_name | _parents(by_name) - _parents({name})) & known.keys()
        reached[name] -= {name, package.name}
    for middle in known:
        for start in known:
            if middle in reached[start]:
                reached[start] = reached[start] | reached[middle]
    found = {frozenset(m for m in reached[n] if n in reached[m]) for n in known if n in reached[n]}
    return [set(circle) for circle in sorted(found, key=sorted)]


def _room(module: str) -> str:
    return [*module.split("."), ""][1]


def trespasses(
    package: Path,
    rooms: tuple[str, ...],
    forbidden: tuple[str, ...],
    doors: frozenset[tuple[str, str]] = frozenset(),
) -> list[str]:
    """Chains of imports that lead from a module of these rooms to something forbidden."""
    known = modules(package)
    open_ = {
        (f"{package.name}.{home}", target)
        for home, room in doors
        for target in (room, f"{package.name}.{room}")
    }
    starts = [f"{package.name}.{room}" for room in rooms]
    chains = [[n] for n in sorted(known) if any(n == s or n.startswith(s + ".") for s in starts)]
    seen = {chain[0] for chain in chains}
    found = []
    while chains:
        chain = chains.pop()
        for target in sorted(imports(chain[-1], package)):
            if (chain[-1], target) in open_:
                continue
            if any(target == f or target.startswith(f + ".") for f in forbidden):
                found.append(" -> ".join([*chain, target]))
            elif target in known and target not in seen:
                seen.add(target)
                chains.append([*chain, target])
    return found


def walls(package: Path) -> dict[str, list[str]]:
    """What trespasses each wall of a package laid out as sigprop is."""
    theory = f"{package.name}.theory"
    return {
        "torch": trespasses(package, TORCH_FREE, ("torch",), frozenset(DOORS)),
        "measurement": trespasses(package, ("reading", "measurement"), (theory,)),
        "plots": trespasses(package, ("plots",), (theory, "torch", "scipy")),
    }


def test_every_room_has_its_place():
    present = {_room(name) for name in modules(PACKAGE)} - {""}
    assert len(set(ORDER)) == len(ORDER)
    assert present ^ set(ORDER) == NOT_YET


def test_a_room_imports_only_from_rooms_above_it():
    assert upward(PACKAGE, ORDER) == {}


def test_no_modules_import_each_other_in_a_circle():
    assert circles(PACKAGE) == []


def test_no_wall_is_trespassed():
    assert walls(PACKAGE) == {"torch": [], "measurement": [], "plots": []}


def test_the_walls_stand_round_rooms_that_exist():
    """A room that is renamed or moved would leave its wall standing round nothing."""
    present = {n.split(".")[1] for n in modules(PACKAGE) if "." in n}
    assert {
        *TORCH_FREE,
        *TORCH_WITH_A_MODEL,
        "reading",
        "measurement",
        "plots",
    } - present == NOT_YET - present
    assert not NOT_YET & present, "built: take it out of NOT_YET"


LAZY = "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from house.theory.leaky import g"
HOUSE = {
    "__init__.py": "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from house.theory import g",
    "records.py": "import json",
    "graph/__init__.py": "from house.graph.network import x",
    "graph/network.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
    "reading/__init__.py": "from house.reading.layers import y",
    "reading/layers.py": "import torch\nfrom house.graph import x",
    "theory/__init__.py": "from house.theory.leaky import g",
    "theory/leaky.py": "import numpy\nfrom ..records import row\nfrom . import deep",
    "theory/deep.py": "from scipy import special",
    "arrangement/__init__.py": "",
    "arrangement/network.py": "import numpy",
    "piecewise/__init__.py": "TYPE_CHECKING = False\n"
    "if TYPE_CHECKING:\n    from house.piecewise.convert import to_network",
    "piecewise/convert.py": "import torch\nfrom house.arrangement.network import Net",
    "regions/__init__.py": "from house.piecewise import to_network",
    "measurement/__init__.py": "from .signals import measure",
    "measurement/signals.py": "import torch\nfrom house import reading, records",
    "plots.py": "import matplotlib.pyplot as plt\nfrom house.records import row",
    "validation.py": "from house.theory import g\nfrom house.measurement import measure",
}


def house(folder: Path, **changes: str) -> Path:
    planted = {
        room if room.endswith(".py") else room.replace("__", "/") + ".py": text
        for room, text in changes.items()
    }
    for name, text in (HOUSE | planted).items():
        path = folder / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "house"


HOUSE_ORDER = (
    "records", "graph", "theory", "arrangement", "reading", "measurement", "piecewise", "regions",
    "validation", "plots",
)  # fmt: skip


def test_a_sound_house_passes(tmp_path):
    package = house(tmp_path)
    assert walls(package) == {"torch": [], "measurement": [], "plots": []}
    assert upward(package, HOUSE_ORDER) == {}
    assert circles(package) == []


@pytest.mark.parametrize(
    ("room", "text", "found"),
    [
        ("records", "from house.theory import g", "house.records -> house.theory"),
        ("records", "def f():\n    import house.graph", "house.records -> house.graph"),
        ("theory__deep", "def f():\n    from ..reading import layers", "house.theory.deep -> "),
        ("graph__network", "import house\nhouse.g(0.2)", "house.graph.network -> house.theory"),
        (
            "reading/__init__.py",
            "from house import measurement",
            "house.reading -> house.measurement",
        ),
        ("piecewise__convert", "from house.regions import r", "house.piecewise.convert -> house.r"),
    ],
)
def test_an_upward_import_is_seen(tmp_path, room, text, found):
    package = house(tmp_path, **{room: text})
    chains = [c for where in upward(package, HOUSE_ORDER).values() for c in where]
    assert any(found in chain for chain in chains)


@pytest.mark.parametrize(
    ("changes", "circle"),
    [
        ({"theory__deep": "from house.theory.leaky import g"}, {"deep", "leaky"}),
        ({"theory__deep": "def f():\n    from house.theory import leaky"}, {"deep", "leaky"}),
        ({"theory__deep": "from house.theory import g"}, {"", "deep", "leaky"}),
        ({"theory__leaky": "from .deep import x", "theory__deep": "from .low import x",
          "theory__low": "def f():\n    from .leaky import g"}, {"deep", "leaky", "low"}),
        ({"theory/__init__.py": LAZY, "theory__deep": "from house.theory import g"},
         {"deep", "leaky"}),
    ],
)  # fmt: skip
def test_a_circle_is_seen(tmp_path, changes, circle):
    found = circles(house(tmp_path, **changes))
    assert found == [{f"house.theory.{name}".rstrip(".") for name in circle}]


def test_a_circle_over_two_rooms_is_seen(tmp_path):
    """Also through the __init__ of a room, which runs when one of its modules is imported."""
    planted = "from house.regions import count"
    (found,) = circles(house(tmp_path, piecewise__convert=planted))
    assert {"house.piecewise.convert", "house.regions"} <= found


def test_types_close_no_circle(tmp_path):
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .leaky import g"
    assert circles(house(tmp_path, theory__deep=types)) == []


@pytest.mark.parametrize(
    ("room", "text", "wall", "chain"),
    [
        ("graph__network", "import torch", "torch", "house.graph.network -> torch"),
        ("graph__deep", "from house import reading", "torch", "house.graph.deep -> house.reading"),
        ("records", "def f():\n    import torch.nn as nn", "torch", "house.records -> torch"),
        ("theory__deep", "from torch import nn", "torch", "house.theory.deep -> torch"),
        ("checks", "try:\n    from torch.nn import Linear\nexcept ImportError: 0", "torch", None),
        ("theory__deep", "from house.reading import y", "torch", "house.reading.layers -> torch"),
        ("theory__deep", "from ..reading import layers", "torch", "house.reading.layers -> torch"),
        ("arrangement__deep", "import house.reading.layers", "torch", "deep -> house.reading.lay"),
        ("arrangement__network", "import house.piecewise.convert", "torch", "convert -> torch"),
        (
            "arrangement__network",
            "def f():\n    from house.piecewise import to_network",
            "torch",
            "house.arrangement.network -> house.piecewise.convert -> torch",
        ),
        ("theory__deep", "from house import regions", "torch", "house.regions -> house.piecewise."),
        ("arrangement__deep", "import importlib\nimportlib.import_module('torch')", "torch", None),
        (
            "graph__network",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    0\nelse:\n    import torch",
            "torch",
            "house.graph.network -> torch",
        ),
        ("reading__deep", "from house.theory import g", "measurement", "house.reading.deep -> "),
        ("reading__layers", "import house.theory", "measurement", "house.reading.layers -> "),
        ("measurement__deep", "from house.theory import g", "measurement", None),
        ("measurement__deep", "from ..theory.leaky import g", "measurement", "-> house.theory"),
        ("measurement__deep", "from .. import theory", "measurement", "-> house.theory"),
        ("records", "import house.theory.leaky", "measurement", "-> house.records -> house.theory"),
        ("measurement__deep", "import house.validation", "measurement", "-> house.validation ->"),
        ("measurement__deep", "from house import g", "measurement", "-> house.theory"),
        ("measurement__deep", "import house\nhouse.g(0.2)", "measurement", "-> house.theory"),
        ("plots", "from house.theory import g", "plots", "house.plots -> house.theory"),
        ("plots", "def f():\n    from scipy import stats", "plots", "house.plots -> scipy"),
        ("plots", "import torch", "plots", "house.plots -> torch"),
        ("plots", "from house.validation import v", "plots", "house.validation -> house.theory"),
        ("records", "import scipy.special", "plots", "house.plots -> house.records -> scipy"),
    ],
)
def test_each_wall_can_fail(tmp_path, room, text, wall, chain):
    found = walls(house(tmp_path, **{room: text}))
    assert found[wall]
    assert chain is None or any(chain in trespass for trespass in found[wall])


# The same in a live interpreter, where an import hidden from the source would show

BLOCK = """
import importlib, sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError("behind the wall: " + name)

sys.meta_path.insert(0, Wall())
for name in {names}:
    importlib.import_module(name)
"""


def run(code: str, *, path: Path = PACKAGE.parent) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=path
    )


def behind_a_wall(package: Path, rooms: tuple[str, ...], blocked: set[str]):
    """Import every module of some rooms where the blocked packages cannot be imported."""
    starts = tuple(f"{package.name}.{room}" for room in rooms)
    names = [n for n in sorted(modules(package)) if n.startswith(starts)]
    return run(BLOCK.format(blocked=blocked, names=names), path=package.parent)


def test_the_theory_side_runs_where_torch_cannot_be_imported():
    done = behind_a_wall(PACKAGE, TORCH_FREE, {"torch"})
    assert done.returncode == 0, done.stderr


def test_reading_and_measurement_run_where_theory_cannot_be_imported():
    rooms = ("sigprop.reading", "sigprop.measurement")
    code = BLOCK.replace('name.split(".")[0] in', "name in").format(
        blocked={"sigprop.theory"}, names=[n for n in modules(PACKAGE) if n.startswith(rooms)]
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_live_wall_can_fail(tmp_path):
    planted = house(
        tmp_path, graph__network="__import__('to' + 'rch')", theory__deep="0", theory__leaky="0"
    )
    assert not walls(planted)["torch"]  # what the source does not show
    done = behind_a_wall(planted, TORCH_FREE, {"torch"})
    assert "behind the wall: torch" in done.stderr


LOADED = """
import sys
import sigprop
{touch}
print(*sorted({heavy} & set(sys.modules)))
"""


def loaded_after(touch: str) -> list[str]:
    done = run(LOADED.format(touch=touch, heavy=set(HEAVY)))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_first_number_loads_nothing_heavy():
    touch = "assert abs(sigprop.g_star(0.2) ** 2 * 1.04 / 2 - 1) < 1e-12; dir(sigprop)"
    assert loaded_after(touch) == []


def test_a_heavy_import_would_be_seen():
    """And a model, an own one too, loads torch."""
    touch = """
from sigprop.piecewise import as_network
assert as_network(sigprop.DeepMLP(3, [2])).widths == (3, 2)
"""
    assert {"torch", "scipy"} <= set(loaded_after(touch))


def test_regions_and_kinks_are_there_where_torch_cannot_be_imported():
    done = behind_a_wall(PACKAGE, TORCH_WITH_A_MODEL, {"torch"})
    assert done.returncode == 0, done.stderr


ARRAYS = """
import numpy as np
from sigprop.piecewise import as_network
net = sigprop.regions.PiecewiseLinear([np.eye(3), np.ones((2, 3))])
assert as_network(net) is net
for wrong in (None, np.eye(2), type):
    try:
        as_network(wrong)
    except TypeError:
        continue
    raise AssertionError(wrong)
assert sigprop.regions.on_line(net, np.zeros(3), np.ones(3)).activation_regions == 1
assert (net(np.ones(3)) == 3).all()
"""


def test_arrays_load_no_torch():
    assert "torch" not in loaded_after("import sigprop.regions, sigprop.kinks\n" + ARRAYS)


# The public face

PUBLIC = {
    "DeepMLP",
    "MeanField",
    "activation",
    "check",
    "checking",
    "chi",
    "constrain_slopes",
    "correlation_map",
    "critical_gain",
    "edge_of_chaos",
    "explain_gain",
    "finite_width_law",
    "g_star",
    "gain",
    "init",
    "init_slopes",
    "initialize",
    "kaiming_leaky_init",
    "kinks",
    "measure",
    "measurement",
    "monitor",
    "monitoring",
    "nn",
    "param_groups",
    "plots",
    "predict",
    "prediction",
    "project_slopes",
    "references",
    "regions",
    "sample_trajectories",
    "sweep",
    "tailored_slope",
    "theory",
    "trajectory",
    "validate",
    "validate_many",
    "variance_map",
}


def test_the_public_names_are_these():
    """Other people type these names: adding one is a decision, losing one is a break."""
    assert set(sigprop.__all__) == PUBLIC
    assert sigprop.__all__ == sorted(sigprop.__all__)
    assert set(sigprop.__all__) <= set(dir(sigprop))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_resolves_to_the_thing_of_that_name(name):
    assert getattr(sigprop, name).__name__.rpartition(".")[2] == name
    assert getattr(sigprop, name) is getattr(sigprop, name)


def test_star_import_and_unknown_names():
    names: dict[str, object] = {}
    exec("from sigprop import *", names)
    assert set(names) >= PUBLIC
    assert not hasattr(sigprop, "no_such_name")


@pytest.mark.parametrize(
    ("home", "wrong", "near"),
    [
        ("sigprop", "gstar", "g_star"),
        ("sigprop", "Measure", "measure"),
        ("sigprop.theory", "critical_gains", "critical_gain"),
        ("sigprop.regions", "in_boxes", "in_box"),
        ("sigprop.plots", "phase_diagramm", "phase_diagram"),
        ("sigprop.nn", "DeepMPL", "DeepMLP"),
        ("sigprop.kinks", "alongs", "along"),
        ("sigprop.init", "initialise", "initialize"),
        ("sigprop.monitoring", "Monitors", "Monitor"),
        ("sigprop.measurement", "mesure", "measure"),
    ],
)
def test_a_misspelled_name_is_answered(home, wrong, near):
    module = importlib.import_module(home)
    with pytest.raises(AttributeError, match=rf"no attribute '{wrong}'. Did you mean .*'{near}'"):
        getattr(module, wrong)


def test_a_name_that_is_near_nothing_is_answered_with_all_and_a_module_as_one():
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'. It has DeepMLP, MeanField"):
        _ = sigprop.xyzzy
    with pytest.raises(AttributeError, match=r"'references'. It is a module: import sigprop.ref"):
        misspelled("sigprop", [])("references")


def test_a_name_of_torch_nn_is_told_from_ours():
    """``from sigprop import *`` takes the name ``nn`` from torch."""
    with pytest.raises(AttributeError, match=r"That is torch\.nn\.Linear: here nn is sigprop\.nn"):
        _ = sigprop.nn.Linear
    with pytest.raises(AttributeError, match=r"Did you mean 'ReLUSquared'"):
        _ = sigprop.nn.ReluSquared


LAZY = ("sigprop", "sigprop.theory", "sigprop.piecewise")


@pytest.mark.parametrize("package", LAZY)
def test_the_stub_is_the_one_list_and_every_name_is_at_home_there(package):
    module = importlib.import_module(package)
    homes = type_checking_names(Path(module.__file__))
    assert sorted(homes) == module.__all__ == dir(module)
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    for node in stub.body:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            assert alias.asname == alias.name  # else type checkers take it for private
            owner = importlib.import_module(node.module)
            assert getattr(module, alias.name) is getattr(owner, alias.name)


ROOMS = [
    "arrangement", "checking", "graph", "theory", "init", "kinks", "measurement", "monitoring",
    "nn", "piecewise", "reading", "regions", "sweep", "validation",
]  # fmt: skip


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_offers(room):
    module = __import__(f"sigprop.{room}", fromlist=["__all__"])
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    taken = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    froms = [node for node in taken.body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname or alias.name for node in froms for alias in node.names}
    assert names <= {*module.__all__, "annotations", "TYPE_CHECKING", "lazy_names", "misspelled"}
