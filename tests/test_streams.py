"""Residual streams of graphs: written by hand, and those of real networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigprop.graph import Block, Graph, Node, Stream, Weight, streams
from sigprop.reading import record
from tests.zoo import ZOO

BY_NAME = {entry.name: entry for entry in ZOO}


def graph(*lines: str) -> Graph:
    """A graph of lines ``name kind inputs...``; a weight's parameter is called as it is."""
    nodes = [Node("x", "input", "input")]
    for line in lines:
        name, kind, *inputs = line.split()
        weight = Weight(parameters=(name.split("#")[0],)) if kind == "weight" else None
        nodes.append(Node(name, kind, kind, tuple(inputs), weight=weight))
    return Graph(tuple(nodes))


def found(name: str) -> tuple[Stream, ...]:
    entry = BY_NAME[name]
    torch.manual_seed(0)
    model, inputs = entry.build(), entry.inputs()
    if isinstance(inputs, dict):
        return streams(record(model, **inputs))
    return streams(record(model, *inputs))


def only(of: tuple[Stream, ...]) -> Stream:
    assert len(of) == 1
    return of[0]


# Written by hand


def test_a_block_names_its_join_its_fork_its_branch_and_its_ends():
    stream = only(
        streams(
            graph(
                "a weight x",
                "r activation a",
                "b weight r",
                "drop dropout b",
                "s sum x drop",
                "c weight s",
                "r2 activation c",
                "d weight r2",
                "t sum d s",
                "head weight t",
            )
        )
    )
    assert stream.blocks == (
        Block("s", "x", ("a", "r", "b", "drop"), ("b",), ("b",), ("a", "b")),
        Block("t", "s", ("c", "r2", "d"), ("d",), ("d",), ("c", "d")),
    )
    assert (stream.start, stream.end, stream.post) == ("x", "t", False)


def test_without_a_weight_in_the_branch_nothing_is_added():
    assert streams(graph("r activation x", "s sum r x", "a weight s")) == ()


def test_branches_that_meet_are_no_stream():
    assert streams(graph("a weight x", "b weight x", "s sum a b")) == ()
    assert streams(graph("a weight x", "r activation a", "b weight x", "g product r b")) == ()


def test_a_concatenation_is_no_stream():
    lines = ("a weight x", "r activation a", "c concatenation x r", "b weight c")
    assert streams(graph(*lines)) == ()
    with_zeros = graph(
        "z constant", "p pooling x", "c concatenation p z", "a weight x", "r activation a",
        "b weight r", "s sum b c",
    )  # fmt: skip
    assert only(streams(with_zeros)).blocks[0].before == "x"


def test_a_shortcut_with_a_weight_counts_where_all_comes_from_one_node():
    lines = ("a weight x", "r activation a", "b weight r", "n normalization b", "p pooling x",
             "short weight p", "s sum n short", "q activation s")  # fmt: skip
    (block,) = only(streams(graph(*lines))).blocks
    assert block.shortcut == ("short",) and block.ends == ("b",) and block.end_norm
    assert block.behind == ("q",) and block.before == "x"
    other = graph(
        "y input", "a weight x", "r activation a", "b weight r", "m sum b y", "r2 activation m",
        "c weight r2", "short weight x", "s sum c short",
    )  # fmt: skip
    assert streams(other) == ()


def test_a_recurrent_net_by_hand_has_no_stream():
    lines = ["x0 passage x", "w weight x0", "h0 activation w"]
    for t in (1, 2):
        lines += [f"x{t} passage x", f"w#{t} weight x{t}", f"u#{t} weight h{t - 1}",
                  f"s{t} sum w#{t} u#{t}", f"h{t} activation s{t}"]  # fmt: skip
    assert streams(graph(*lines)) == ()


@pytest.mark.parametrize("order", ["s1 sum x a2|s sum s1 m2", "s1 sum a2 m2|s sum s1 x"])
def test_parallel_branches_are_one_block(order):
    branches = ("n normalization x", "a weight n", "ar activation a", "a2 weight ar", "m weight n",
                "mr activation m", "m2 weight mr")  # fmt: skip
    (block,) = only(streams(graph(*branches, *order.split("|")))).blocks
    assert (block.join, block.before, block.ends) == ("s", "x", ("a2", "m2"))
    assert block.pre_norm and not block.end_norm


def test_pre_norm_is_no_norm_further_back():
    inside = graph(
        "a weight x", "n normalization a", "r activation n", "b weight r", "s sum x b"
    )  # fmt: skip
    assert not only(streams(inside)).blocks[0].pre_norm
    half = graph("n normalization x", "k weight n", "v weight x", "g product k v", "b weight g",
                 "s sum x b")  # fmt: skip
    assert not only(streams(half)).blocks[0].pre_norm


def test_a_branch_that_ends_in_an_activation_or_a_gate_has_no_end():
    bent = graph("a weight x", "r activation a", "s sum x r")
    assert only(streams(bent)).blocks[0].ends == ()
    assert only(streams(bent)).blocks[0].last == ("r",)
    gated = graph("a weight x", "b weight x", "r activation b", "g product a r", "s sum x g")
    assert only(streams(gated)).blocks[0].ends == ()


def test_what_stands_behind_the_last_join_ends_a_pre_activation_stream():
    block = "n{0} activation s{1}|a{0} weight n{0}|s{0} sum s{1} a{0}"
    lines = ["s0 weight x"]
    for i in (1, 2):
        lines += block.format(i, i - 1).split("|")
    pre = graph(*lines, "last activation s2", "head weight last")
    assert [b.behind for b in only(streams(pre)).blocks] == [(), ()]
    post = graph(
        "a weight x", "s sum x a", "r activation s", "b weight r", "t sum r b", "q activation t"
    )  # fmt: skip
    assert [b.behind for b in only(streams(post)).blocks] == [("r",), ("q",)]


def test_a_stream_within_a_branch_is_one_of_its_own():
    lines = ("a weight x", "r activation a", "b weight r", "s sum x b", "c weight s",
             "long sum c x", "d weight long", "t sum long d")  # fmt: skip
    inner, outer = streams(graph(*lines))
    assert [b.join for b in inner.blocks] == ["s"]
    assert [b.join for b in outer.blocks] == ["long", "t"] and outer.blocks[0].ends == ("c",)


def test_a_mask_that_is_added_to_logits_is_no_stream():
    lines = ["mask input"]
    for i, before in ((1, "x"), (2, "s1")):
        lines += [f"k{i} weight {before}", f"q{i} weight {before}", f"l{i} product k{i} q{i}",
                  f"m{i} sum l{i} mask", f"p{i} softmax m{i}", f"v{i} product p{i} {before}",
                  f"o{i} weight v{i}", f"s{i} sum {before} o{i}"]  # fmt: skip
    assert [b.join for b in only(streams(graph(*lines))).blocks] == ["s1", "s2"]


def test_two_streams_that_read_each_other():
    """Reversible nets: one = one + f(two), two = two + g(one). A branch starts at the other."""
    lines, last = ["a0 weight x", "b0 weight x"], ("a0", "b0")
    for i in range(1, 4):
        one, two = last
        lines += [f"f{i} weight {two}", f"r{i} activation f{i}", f"g{i} weight r{i}",
                  f"a{i} sum {one} g{i}", f"h{i} weight a{i}", f"t{i} activation h{i}",
                  f"k{i} weight t{i}", f"b{i} sum {two} k{i}"]  # fmt: skip
        last = f"a{i}", f"b{i}"
    found = streams(graph(*lines, "y concatenation a3 b3"))
    assert [[b.join for b in stream.blocks] for stream in found] == [
        ["a1", "a2", "a3"], ["b1", "b2", "b3"],
    ]  # fmt: skip
    assert all(len(b.weights) == 2 for s in found for b in s.blocks[1:])


# Real networks


def test_post_activation_resnet():
    stream = only(found("resnet_basic"))
    assert [b.join for b in stream.blocks] == [
        "layer1.0.add", "layer1.1.add", "layer2.0.add", "layer2.1.add",
    ]  # fmt: skip
    assert stream.start == "maxpool" and stream.post
    assert all(b.end_norm and not b.pre_norm for b in stream.blocks)
    assert [b.shortcut for b in stream.blocks] == [(), (), ("layer2.0.downsample.0",), ()]
    assert stream.blocks[1].behind == ("layer1.1.relu#2",)


@pytest.mark.parametrize("name", ["preact_resnet", "bit_resnet", "residual_mlp", "nfnet"])
def test_pre_activation_nets(name):
    stream = only(found(name))
    assert len(stream.blocks) > 1 and not stream.post
    assert all(len(b.ends) == 1 for b in stream.blocks)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("vit_mha", 6), ("vit_timm", 6), ("gpt2", 4), ("llama", 4), ("mixer", 6), ("swin", 6)],
)
def test_transformers(name, blocks):
    stream = only(found(name))
    assert len(stream.blocks) == blocks and not stream.post
    for block, after in zip(stream.blocks, stream.blocks[1:], strict=False):
        assert block.pre_norm and len(block.ends) == 1
        assert after.before == block.join or name == "swin"


def test_post_norm_and_cross_attention():
    assert [len(s.blocks) for s in found("torch_seq2seq")] == [4, 6]
    bert = only(found("bert"))
    assert len(bert.blocks) == 4 and all(len(b.behind) == 1 for b in bert.blocks)


def test_gated_mlp_layer_scale_and_linear_bottlenecks():
    assert found("llama")[0].blocks[1].ends == ("layers.0.down_proj",)
    convnext = only(found("convnext"))
    assert [b.ends for b in convnext.blocks][:2] == [
        ("stages.0.0.pwconv2",),
        ("stages.0.1.pwconv2",),
    ]
    assert len(convnext.blocks) == 4
    mobile = only(found("mobilenet_v2"))
    assert [b.before for b in mobile.blocks] == ["features.2.conv.3", "features.3.add"]


def test_parallel_attention_and_mlp():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
            self.up, self.down = nn.Linear(8, 20), nn.Linear(20, 8)

        def forward(self, x):
            for _ in range(2):
                n = self.norm(x)
                mixed = F.scaled_dot_product_attention(*self.qkv(n).chunk(3, -1))
                x = x + self.out(mixed) + self.down(F.gelu(self.up(n)))
            return x

    stream = only(streams(record(Parallel(), torch.randn(2, 5, 8))))
    assert [b.ends for b in stream.blocks] == [("out", "down"), ("out#2", "down#2")]
    assert all(b.pre_norm for b in stream.blocks)


@pytest.mark.parametrize(
    "name", ["vgg_bn", "densenet", "unet", "elman_rnn", "highway_mlp", "siren"]
)
def test_nets_without_a_stream(name):
    assert found(name) == ()
