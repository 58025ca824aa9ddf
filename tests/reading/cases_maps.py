"""Linear maps in every spelling, biases, sources, products of two signals."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F

from tests.reading.words import case, rows

IMAGE = rows(2, 3, 8, 8)

# A parameter and the signal


@case("w(x)", traced=True)
def functional_linear(m, x):
    return F.linear(x, m.w)


@case("w(x)", traced=True)
def linear_by_keywords(m, x):
    return F.linear(input=x, weight=m.w, bias=m.u)


@case("w(x)", traced=True)
def matmul_operator(m, x):
    return x @ m.w.t()


@case("w(x)", traced=True)
def weight_on_the_left(m, x):
    return m.w @ x.t()


@case("w(x)", traced=True)
def torch_matmul(m, x):
    return torch.matmul(x, m.w.T)


@case("w(x)", traced=True)
def method_matmul_by_keyword(m, x):
    return x.matmul(other=m.w.mT)


@case("w(x)", traced=True)
def operator_matmul(m, x):
    return operator.matmul(m.w, x.mT)


@case("w(x)", traced=True)
def mm(m, x):
    return torch.mm(x, m.w.t())


@case("w(x)", traced=True)
def mv(m, x):
    return torch.mv(m.w, x[0])


@case("w(x)", traced=True)
def addmm(m, x):
    return torch.addmm(m.u, x, m.w.t())


@case("w(x)", traced=True)
def addmm_by_keyword(m, x):
    return torch.addmm(input=m.u, mat1=x, mat2=m.w.t())


@case("opaque:addmm(x)", traced=True)
def addmm_with_factors(m, x):
    return torch.addmm(m.u, x, m.w.t(), alpha=2)


@case("sum(c(x), w(x))", traced=True)
def addmm_onto_a_signal(m, x):
    return torch.addmm(m.c(x), x, m.w.t())


@case("w(x)", rows(4, 5, 6), traced=True)
def bmm(m, x):
    return torch.bmm(x, m.w.t().expand(4, 6, 8))


@case("w(x)", rows(4, 5, 6), traced=True)
def baddbmm(m, x):
    return torch.baddbmm(m.u, x, m.w.t().expand(4, 6, 8))


@case("w(x)", traced=True)
def einsum(m, x):
    return torch.einsum("bi,oi->bo", x, m.w)


@case("w(x)", traced=True)
def einsum_weight_first(m, x):
    return torch.einsum("oi,bi->bo", m.w, x)


@case("w(x)", traced=True)
def einsum_of_a_list(m, x):
    return torch.einsum("b i, o i -> b o", [x, m.w])


@case("w(x)", rows(3, 5, 6), traced=True)
def einsum_with_dots(m, x):
    return torch.einsum("...i,oi->...o", x, m.w)


@case("w(x)", traced=True)
def einsum_without_an_output(m, x):
    return torch.einsum("bi,oi", x, m.w)


@case("opaque:einsum(x)", rows(3, 5, 6), traced=True)
def einsum_that_sums_the_signal_too(m, x):
    return torch.einsum("bti,oi->bo", x, m.w)


@case("times ~(c(x))", traced=True)
def einsum_that_only_scales(m, x):
    return torch.einsum("bi,i->bi", m.c(x), m.u)


@case("product(a(x), c(x))", traced=True)
def einsum_of_two_signals(m, x):
    return torch.einsum("bi,bi->b", m.a(x), m.c(x))


@case("product(x)", traced=True)
def tensordot(m, x):
    return torch.tensordot(x, m.w, dims=([1], [1]))


@case("a(conv(x))", IMAGE)
def convolution_then_rows(m, x):
    return m.a(F.conv2d(x, m.conv.weight, None, 1, 1)[..., :6])


@case("deconv(conv(x))", IMAGE, traced=True)
def convolution_and_transposed(m, x):
    return m.deconv(m.conv(x))


@case("conv(x)", IMAGE, traced=True)
def convolution_by_method(m, x):
    return torch.conv2d(x, weight=m.conv.weight, bias=m.conv.bias, stride=2)


@case("opaque:convolution(x)", IMAGE)
def convolution_by_aten(m, x):
    return torch.convolution(x, m.conv.weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)


@case("w(x)")
def linear_by_aten(m, x):
    return torch.ops.aten.linear.default(x, m.w)


@case("opaque:bilinear(x)", traced=True)
def bilinear(m, x):
    return F.bilinear(x, x, m.w.view(1, 8, 6)[:, :6].expand(2, 6, 6))


# Biases


@case("plus ~(w(x))", traced=True)
def own_bias(m, x):
    return F.linear(x, m.w) + m.u


@case("plus ~(w(x))", traced=True)
def own_bias_in_place(m, x):
    out = F.linear(x, m.w)
    out += m.u
    return out


@case("plus ~(w(x))", traced=True)
def own_bias_first(m, x):
    return torch.add(m.u, x @ m.w.t())


@case("plus -3(times -1(a(x)))")
def a_number_taken_away(m, x):
    return -m.a(x) - 3


# Constants that a layer takes for its signal


@case("b(u)", traced=True)
def a_learnt_vector_through_a_layer(m, x):
    return m.b(m.u)


@case("cat(.8333 a(x))")
def class_token(m, x):
    return torch.cat((m.u[None], m.a(x)))


@case("b(cat(.8333 a(x)))")
def class_token_before_a_layer(m, x):
    return m.b(torch.cat((m.u.expand(1, -1), m.a(x))))


@case("sum(a(a.constant), c(x))")
def a_constant_through_a_layer(m, x):
    return m.a(torch.ones(5, 6)) + m.c(x)


@case("sum(b(u), a(x))")
def a_learnt_query(m, x):
    return m.b(m.u) + m.a(x)


# Products of two signals


@case("product(a(x), c(x))", traced=True)
def gate(m, x):
    return m.a(x) * m.c(x)


@case("product(a(x), c(x))", traced=True)
def gate_by_function(m, x):
    return torch.mul(m.a(x), other=m.c(x))


@case("product(a(x), c(x))", traced=True)
def matrix_product_of_signals(m, x):
    return m.a(x) @ m.c(x).t()


@case("product(a(x), c(x))", traced=True)
def quotient(m, x):
    return m.a(x) / m.c(x)


@case("product(a(x), c(x))")
def linear_of_a_made_weight(m, x):
    return F.linear(m.a(x), m.c(x))


@case("product(a(x), product(b(a(x)), a(x)))", traced=True)
def hypernetwork(m, x):
    h = m.a(x)
    return F.linear(h, m.b(h).t() @ h)


@case("product(a(x))", traced=True)
def glu(m, x):
    return F.glu(m.a(x), dim=-1)


@case("sum(a(x), product(c(x), c(x)))", traced=True)
def addcmul(m, x):
    return torch.addcmul(m.a(x), m.c(x), m.c(x))


@case("opaque:lerp(a(x), c(x))", traced=True)
def lerp(m, x):
    return torch.lerp(m.a(x), m.c(x), 0.3)


# Sums, selections


@case("sum(a(x), c(x))", traced=True)
def difference(m, x):
    return m.a(x) - m.c(x)


@case("sum(a(x), times 2(c(x)))", traced=True)
def sum_with_a_factor(m, x):
    return torch.add(m.a(x), m.c(x), alpha=2)


@case("plus -2(a(x))", traced=True)
def number_with_a_factor(m, x):
    return m.a(x).sub(1.0, alpha=2)


@case("times 2(a(x))", traced=True)
def twice_the_same(m, x):
    h = m.a(x)
    return h + h


@case("sum(a(x), b(relu(a(x))))", traced=True)
def residual_sum(m, x):
    h = m.a(x)
    return h + m.b(F.relu(h))


@case("selection(a(x), c(x))", traced=True)
def maximum_of_two(m, x):
    return torch.maximum(m.a(x), m.c(x))


@case("selection(comparison(pooling(x)), a(x), c(x))", traced=True)
def where_between_two(m, x):
    return torch.where(x.sum(1, keepdim=True) > 0, m.a(x), m.c(x))


@case("cat(.5 a(x), .5 relu(c(x)))", traced="cat(a(x), relu(c(x)))")
def cat_of_branches(m, x):
    return torch.cat([m.a(x), F.relu(m.c(x))], dim=1)


@case("cat(.5 a(x), .5 c(x))", traced="cat(a(x), c(x))")
def stacked(m, x):
    return torch.stack((m.a(x), m.c(x)))


@case("cat(.6667 a(x), .3333 c(x))", traced="cat(a(x), c(x))")
def one_branch_twice(m, x):
    h = m.a(x)
    return torch.hstack((h, h, m.c(x)))


@case("cat(.8 a(x))")
def cat_with_zeros(m, x):
    return torch.cat((m.a(x), torch.zeros(5, 2)), dim=1)


# Every signal keeps its edge


@case("product(b(a(x)), b(c(x)))")
def broadcast_tensors(m, x):
    first, second = torch.broadcast_tensors(m.a(x), m.c(x))
    return m.b(first) * m.b(second)


@case("output(times ~(a(x)), times ~(c(x)))")
def meshgrid(m, x):
    first, second = torch.meshgrid([m.a(x)[0], m.c(x)[0]], indexing="ij")
    return first * m.u, second * m.u


@case("opaque:cdist(a(x), c(x))", traced=True)
def distances(m, x):
    return torch.cdist(m.a(x), m.c(x))


@case("opaque:cosine_similarity(a(x), c(x))", traced=True)
def similarity(m, x):
    return F.cosine_similarity(m.a(x), m.c(x))


@case("product(b(a(x)), a(x), c(x))", traced=True)
def addr(m, x):
    return torch.addr(m.b(m.a(x))[:, :5], m.a(x)[0, :5], m.c(x)[0, :5])


@case("w(x)", traced=True)
def inner(m, x):
    return torch.inner(x, m.w)


@case("w(x)", rows(4, 5, 6), traced=True)
def baddbmm_by_keywords(m, x):
    return torch.baddbmm(input=m.u, batch1=x, batch2=m.w.t().expand(4, 6, 8))


@case("opaque:sample(sigmoid(a(x)))", traced=True)
def sampled(m, x):
    return torch.bernoulli(torch.sigmoid(m.a(x)))


@case("times ~(a(x))")
def noise_in_place(m, x):
    h = m.a(x)
    return h * h.new_empty(h.shape).bernoulli_(0.5)


@case("expression(a(x))", traced=True)
def remainder(m, x):
    return m.a(x) % 1


@case("selection(a(x), c(x))", traced=True)
def a_keyword_left_to_right(m, x):
    return torch.where(condition=m.k > 0, input=m.a(x), other=m.c(x))


@case("dropout .3(a(x))", traced=True)
def dropout_of_torch(m, x):
    return torch.dropout(m.a(x), p=0.3, train=True)


@case("a(x)")
def dropout_of_torch_outside_training(m, x):
    return torch.dropout(m.a(x), p=0.3, train=False)


@case("norm(a(x))", traced=True)
def batch_norm_of_torch(m, x):
    ones = torch.ones(8)
    return torch.batch_norm(m.a(x), m.u, m.u, 7 * ones, ones, True, 0.1, 1e-5, False)
