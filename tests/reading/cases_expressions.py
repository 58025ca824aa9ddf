"""Activations by name and written out, norms by hand, constant factors."""

from __future__ import annotations

import math
import operator

import torch
import torch.nn.functional as F

from tests.reading.words import case, rows

IMAGE = rows(2, 3, 8, 8)

# ReLU and its slopes


@case("relu(a(x))", traced=True)
def maximum_with_zero(m, x):
    return torch.maximum(m.a(x), torch.zeros(()))


@case("relu(a(x))", traced=True)
def maximum_with_zeros_of_its_shape(m, x):
    h = m.a(x)
    return torch.max(h, torch.zeros_like(h))


@case("relu(a(x))", traced=True)
def fmax(m, x):
    return torch.fmax(torch.tensor(0.0), m.a(x))


@case("leaky_relu .1(a(x))", traced=True)
def where_by_a_tensor(m, x):
    z = m.a(x)
    return torch.where(z > 0, z, torch.tensor(0.1) * z)


@case("leaky_relu .2(a(x))", traced=True)
def where_by_a_number(m, x):
    z = m.a(x)
    return torch.where(z > 0, z, 0.2 * z)


@case("leaky_relu .2(a(x))", traced=True)
def where_the_other_way(m, x):
    z = m.a(x)
    return z.mul(0.2).where(z.lt(0), z)


@case("leaky_relu .1(a(x))", traced=True)
def two_relus(m, x):
    z = m.a(x)
    return F.relu(z) - 0.1 * F.relu(-z)


@case("leaky_relu .3(a(x))", traced=True)
def max_of_a_multiple(m, x):
    z = m.a(x)
    return torch.maximum(z, 0.3 * z)


@case("relu(a(x))", traced=True)
def times_a_mask(m, x):
    z = m.a(x)
    return z * (z > 0)


@case("relu(a(x))", traced=True)
def times_a_float_mask(m, x):
    z = m.a(x)
    return z * (z > 0).float()


@case("times .5(expression(a(x)))", traced=True)
def half_of_z_and_its_size(m, x):
    z = m.a(x)
    return (z + z.abs()) / 2


@case("relu(a(x))", traced=True)
def masked_fill(m, x):
    z = m.a(x)
    return z.masked_fill(z < 0, 0.0)


@case("relu(a(x))")
def set_below_zero(m, x):
    z = m.a(x).clone()
    z[z < 0] = 0
    return z


@case("leaky_relu -1(a(x))", traced=True)
def the_root_of_the_square(m, x):
    return torch.sqrt(m.a(x) ** 2)


@case("leaky_relu .02(a(x))", traced=True)
def two_in_a_row(m, x):
    return F.leaky_relu(F.leaky_relu(m.a(x), 0.1), 0.2)


@case("hardtanh(a(x))", traced=True)
def clamp_both_ends(m, x):
    return m.a(x).clamp(-1, 1)


@case("relu6(a(x))", traced=True)
def relu6(m, x):
    return F.relu6(m.a(x))


@case("prelu .25(a(x))", traced=True)
def prelu_by_an_own_parameter(m, x):
    return F.prelu(m.a(x), m.g.view(1) / 2)


@case("relu(times 2(a(x)))", traced=True)
def relu_of_a_multiple(m, x):
    return F.relu(2 * m.a(x))


@case("expression(a(x))", traced=True)
def relu_of_a_shift(m, x):
    return F.relu(m.a(x) + 1)


@case("expression(a(x))", traced=True)
def squared_relu(m, x):
    return F.relu(m.a(x)) ** 2


@case("expression(a(x))", traced=True)
def squared_relu_by_a_product(m, x):
    z = F.relu(m.a(x))
    return z * z


# Smooth ones


@case("silu(a(x))", traced=True)
def swish(m, x):
    z = m.a(x)
    return z * torch.sigmoid(z)


@case("silu(a(x))", traced=True)
def swish_in_place(m, x):
    z = m.a(x)
    return torch.sigmoid(z).mul_(z)


@case("silu(a(x))", traced=True)
def swish_by_a_quotient(m, x):
    z = m.a(x)
    return z / (1 + torch.exp(-z))


@case("gelu(a(x))", traced=True)
def gelu_by_erf(m, x):
    z = m.a(x)
    return 0.5 * z * (1.0 + torch.erf(z / math.sqrt(2.0)))


@case("gelu_tanh(a(x))", traced=True)
def gelu_by_tanh(m, x):
    z = m.a(x)
    inner = math.sqrt(2 / math.pi) * (z + 0.044715 * torch.pow(z, 3.0))
    return 0.5 * z * (1.0 + torch.tanh(inner))


@case("gelu_tanh(a(x))", traced=True)
def gelu_approximated(m, x):
    return F.gelu(m.a(x), approximate="tanh")


@case("expression(a(x))", traced=True)
def quick_gelu(m, x):
    z = m.a(x)
    return z * torch.sigmoid(1.702 * z)


@case("mish(a(x))", traced=True)
def mish(m, x):
    z = m.a(x)
    return z * torch.tanh(F.softplus(z))


@case("softplus(a(x))", traced=True)
def softplus(m, x):
    return torch.log1p(torch.exp(m.a(x)))


@case("times .1667(expression(a(x)))", traced=True)
def hardswish(m, x):
    z = m.a(x)
    return z * F.relu6(z + 3) / 6


@case("plus -1(times 2(expression(a(x))))", traced=True)
def tanh_by_sigmoid(m, x):
    return 2 * torch.sigmoid(2 * m.a(x)) - 1


@case("sin(a(x))", traced=True)
def sine(m, x):
    return torch.sin(m.a(x))


@case("expression(a(x))", traced=True)
def sine_of_thirty(m, x):
    return torch.sin(30 * m.a(x))


@case("expression(a(x))", traced=True)
def snake(m, x):
    z = m.a(x)
    return z + torch.sin(m.g * z) ** 2 / m.g


@case("expression(a(x))", traced=True)
def logsigmoid(m, x):
    return F.logsigmoid(m.a(x))


# Not elementwise: refused, not misread


@case("product(a(x), sigmoid(c(x)))", traced=True)
def a_gate_of_two_layers(m, x):
    return m.a(x) * torch.sigmoid(m.c(x))


@case("b(?trunc(times 255(a(x))))")
def a_cast_to_whole_numbers(m, x):
    return m.b((m.a(x) * 255).int().float())


@case("product(a(x), pooling(sigmoid(a(x))))", traced=True)
def squeeze_and_excite(m, x):
    z = m.a(x)
    return z * torch.sigmoid(z).mean(0, keepdim=True)


@case("product(a(x), sigmoid(a(x)))", traced=True)
def a_gate_that_is_turned_round(m, x):
    z = m.a(x)
    return z * torch.sigmoid(z.flip(0))


@case("?pow(plus ~(a(x)))", traced=True)
def a_position_table_before_a_bend(m, x):
    return (m.a(x) + m.u) ** 2


# Norms by hand

NORM = "norm(a(x))"


@case(NORM, traced=True)
def rms(m, x):
    z = m.a(x)
    return z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)


@case("times ~(norm(a(x)))", traced=True)
def rms_with_a_gain(m, x):
    z = m.a(x)
    return m.u * (z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6))


@case(NORM, traced=True)
def rms_in_float(m, x):
    z = m.a(x).float()
    return (z * torch.rsqrt((z * z).mean(-1, keepdim=True) + 1e-6)).type_as(x)


@case(NORM, traced=True)
def layer_norm_by_mean_and_var(m, x):
    z = m.a(x)
    mean, var = z.mean(-1, keepdim=True), z.var(-1, keepdim=True, unbiased=False)
    return (z - mean) / torch.sqrt(var + 1e-5)


@case(NORM, traced=True)
def layer_norm_by_std(m, x):
    z = m.a(x)
    return (z - z.mean(-1, True)) / (z.std(-1, keepdim=True) + 1e-6)


@case(NORM, traced=True)
def layer_norm_by_the_square_of_the_rest(m, x):
    z = m.a(x)
    u = z.mean(1, keepdim=True)
    s = (z - u).pow(2).mean(1, keepdim=True)
    return (z - u) / torch.sqrt(s + 1e-6)


@case("norm(conv(x))", IMAGE, traced=True)
def pixel_norm(m, x):
    z = m.conv(x)
    return z / torch.sqrt(torch.mean(z**2, dim=1, keepdim=True) + 1e-8)


@case(NORM, traced=True)
def unit_length(m, x):
    z = m.a(x)
    return z / z.norm(dim=-1, keepdim=True)


@case(NORM, traced=True)
def normalize(m, x):
    return F.normalize(m.a(x), dim=-1)


@case("product(a(x), pooling(a(x)))", traced=True)
def not_a_norm(m, x):
    z = m.a(x)
    return z * z.mean(-1, keepdim=True)


# Constant factors and terms


@case("times 1.414(leaky_relu .2(a(x)))", traced=True)
def a_number(m, x):
    return F.leaky_relu(m.a(x), 0.2) * 2**0.5


@case("times .5(a(x))", traced=True)
def a_division(m, x):
    return m.a(x) / 2


@case("times .7071(sum(a(x), c(x)))", traced=True)
def a_sum_halved_in_power(m, x):
    return (m.a(x) + m.c(x)) / math.sqrt(2)


@case("times 3(a(x))", traced=True)
def a_buffer(m, x):
    return m.k * m.a(x)


@case("times .3333(a(x))", traced=True)
def divided_by_a_buffer(m, x):
    return m.a(x).div(m.k)


@case("times .5(a(x))", traced=True)
def a_scalar_parameter(m, x):
    return m.a(x) * m.g


@case("times 1.649(a(x))", traced=True)
def a_function_of_a_parameter(m, x):
    return m.a(x) * m.g.exp()


@case("times -1(a(x))", traced=True)
def negative(m, x):
    return -m.a(x)


@case("times 2(a(x))", traced=True)
def in_place_operator(m, x):
    return operator.imul(m.a(x), 2)


@case("times ~(a(x))", traced=True)
def a_gain_per_channel(m, x):
    return m.u * m.a(x)


@case("plus .5(a(x))", traced=True)
def a_scalar_added(m, x):
    return m.g + m.a(x)


@case("plus 1(times -1(a(x)))", traced=True)
def taken_from_one(m, x):
    return 1 - m.a(x)


@case("?div(a(x))", traced=True)
def one_over(m, x):
    return 1 / m.a(x)


@case("times 0(a(x))", traced=True)
def taken_from_itself(m, x):
    z = m.a(x)
    return z - z


@case("dropout .3(a(x))", traced=True)
def dropout(m, x):
    return F.dropout(m.a(x), 0.3)


@case("a(x)", traced=True)
def dropout_outside_training(m, x):
    return F.dropout(m.a(x), 0.3, training=False)
