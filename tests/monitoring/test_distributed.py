"""Nets under torch's distributed wrappers, in one process: seen as without them."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

import sigprop
from sigprop.monitoring import MonitorWarning
from tests.measurement.nets import no_hooks_left
from tests.monitoring.nets import by_name, fill, seeded

pytestmark = [
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo"
    ),
    pytest.mark.filterwarnings("ignore:FSDP is switching to use:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory):
    path = tmp_path_factory.mktemp("gloo") / "store"
    try:
        dist.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    except RuntimeError as error:  # a machine whose name leads nowhere
        pytest.skip(f"gloo does not start here: {error}")
    yield
    dist.destroy_process_group()


def plain():
    block = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    return fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(6), block, nn.Linear(6, 2)))


def in_ddp(net):
    return nn.parallel.DistributedDataParallel(net)


def in_fsdp(net, **options):
    fsdp = pytest.importorskip("torch.distributed.fsdp").FullyShardedDataParallel
    net[2] = fsdp(net[2], device_id=torch.device("cpu"), **options)
    return fsdp(net, device_id=torch.device("cpu"), **options)


def in_fsdp_with_parameters_of_its_own(net):
    return in_fsdp(net, use_orig_params=True)


def fully_sharded(net):
    shard = getattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard", None)
    if shard is None:
        pytest.skip("this torch has no fully_shard")
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    for module in (net[0], net[2], net):
        shard(module, mesh=mesh)
    return net


def learn(net, **options):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with sigprop.monitor(net, 1, **options) as mon:
        for step in range(3):
            optimizer.zero_grad()
            net(seeded(8, 5, seed=step)).square().mean().backward()
            optimizer.step()
    return mon


def assert_same(row, other):
    numbers = {key for key, value in other.items() if isinstance(value, float)}
    for key in other:
        wanted = pytest.approx(other[key], rel=1e-4) if key in numbers else other[key]
        assert row[key] == wanted, key


@pytest.mark.parametrize(
    "wrap", [in_ddp, in_fsdp, in_fsdp_with_parameters_of_its_own, fully_sharded]
)
def test_layers_slopes_and_gradients_are_those_of_the_plain_net(wrap):
    expected = learn(plain(), warn=False)
    net = wrap(plain())
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    mon = learn(net, warn=False)
    assert mon.steps == 3 and mon.notes == []
    for row, other in zip(mon.records(), expected.records(), strict=True):
        assert_same(row, other)
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]


def test_the_pattern_does_not_see_the_wrappers():
    mon = learn(in_fsdp(plain()), warn=False, include=r"^2\.")
    assert set(by_name(mon)) == {"2.0"}


def test_layers_on_tensors_split_over_processes_are_passed_over_and_told():
    parallel = pytest.importorskip("torch.distributed.tensor.parallel")
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    plan = {"0": parallel.ColwiseParallel(), "2": parallel.RowwiseParallel()}
    twin = copy.deepcopy(fill(net))
    net = parallel.parallelize_module(net, mesh, plan)
    with pytest.warns(MonitorWarning, match="compute on DTensor are passed over") as caught:
        mon = learn(net)
    assert sum("DTensor" in str(w.message) for w in caught) == 1
    rows, expected = by_name(mon), by_name(learn(twin, warn=False))
    assert "0" not in rows and "2" not in rows
    assert rows["4"]["second_moment"] == pytest.approx(expected["4"]["second_moment"], rel=1e-5)
    assert "DTensor" in str(mon) and no_hooks_left(nn.Sequential(net[4]))
