"""Writes: into slices and views, in place, through ``.data``, ``out=`` and ``copy_``."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.reading.words import case, rows

# Slices written are a concatenation


@case("cat(.25 a(x), .75 c(x))")
def slices_of_an_empty_tensor(m, x):
    out = x.new_empty(5, 8)
    out[:, :2] = m.a(x)[:, :2]
    out[:, 2:] = m.c(x)[:, 2:]
    return out


@case("cat(.25 a(x))")
def a_slice_of_zeros_stays_constant(m, x):
    out = torch.zeros(5, 32)
    out[:, 8:16] = m.a(x)
    return out


@case("cat(.5 a(x), .5 relu(a(x)))")
def relu_on_a_slice(m, x):
    h = m.a(x)
    F.relu_(h[:, :4])
    return h


@case("a(x)")
def other_slice_than_the_one_written(m, x):
    h = m.a(x)
    F.relu_(h[:, :4])
    return h[:, 4:]


@case("relu(a(x))")
def the_slice_that_was_written(m, x):
    h = m.a(x)
    F.relu_(h[:, :4])
    return h[:, :4]


@case("product(c(x), a(x))")
def a_view_taken_before_a_write_beside_it(m, x):
    h = m.a(x)
    left, right = h[:, :4], h[:, 4:]
    left.copy_(m.c(x)[:, :4])
    return left * right


@case("cat(.875 a(x), .125 c(x))")
def a_column_assigned(m, x):
    h = m.a(x)
    h[:, 0] = m.c(x)[:, 0]
    return h


@case("cat(.5 a(x), .5 c(x))")
def columns_by_a_list(m, x):
    h = m.a(x)
    h[:, [0, 2, 4, 6]] = m.c(x)[:, ::2]
    return h


@case("cat(.6 a(x), .4 c(x))")
def rows_by_a_boolean_mask(m, x):
    h, keep = m.a(x), torch.tensor([True, False, True, False, False])
    h[keep] = m.c(x)[keep]
    return h


@case("cat(.8 a(x), .2 c(x))")
def index_put(m, x):
    h = m.a(x)
    h.index_put_((torch.tensor([1]),), m.c(x)[:1])
    return h


@case("cat(.8 a(x), .2 c(x))")
def index_copy(m, x):
    h = m.a(x)
    h.index_copy_(0, torch.tensor([3]), m.c(x)[:1])
    return h


@case("cat(.875 a(x), .125 c(x))")
def scatter(m, x):
    h = m.a(x)
    h.scatter_(1, torch.full((5, 1), 2), m.c(x)[:, :1])
    return h


@case("cat(.75 a(x))")
def a_slice_set_to_a_number(m, x):
    h = m.a(x)
    h[:, :2] = 0
    return h


@case("cat(.875 a(x))")
def a_row_of_the_transpose_zeroed(m, x):
    h = m.a(x)
    h.t()[0].zero_()
    return h


@case("cat(.5 a(x), .5 c(x))")
def diagonal_blocks(m, x):
    out = torch.zeros(2, 5, 8)
    for place, part in enumerate((m.a(x), m.c(x))):
        out[place] = part
    return out


@case("product(a(x), sigmoid(a(x)))")
def views_beside_a_write_are_kept_apart(m, x):
    h = m.a(x)
    left, right = h[:, :2], h[:, 6:]
    h[:, 2:6].relu_()
    return left * torch.sigmoid(right)


@case("silu(a(x))")
def a_view_beside_a_write_is_what_it_was(m, x):
    h = m.a(x)
    left = h[:, :4]
    gate = torch.sigmoid(left)
    h[:, 4:].relu_()
    return left * gate


@case("product(a(x), sigmoid(a(x)))")
def views_taken_after_a_write_are_kept_apart(m, x):
    h = m.a(x)
    h[:, 2:6].relu_()
    return h[:, :2] * torch.sigmoid(h[:, 6:])


@case("b(cat(.25 a(x), .75 relu(a(x))))")
def a_view_across_a_write(m, x):
    h = m.a(x).repeat(1, 2)
    F.relu_(h[:, 4:12])
    return m.b(h[:, 2:10])


@case("silu(a(x))")
def a_whole_copy_is_the_same_signal(m, x):
    h, out = m.a(x), torch.empty(5, 8)
    out.copy_(h)
    return out * torch.sigmoid(h)


@case("cat(.5 plus 0(a(x)), .5 plus 0(c(x)))")
def a_list_of_slices(m, x):
    out = torch.zeros(5, 16)
    for part, layer in enumerate((m.a, m.c)):
        half = out[:, 8 * part : 8 * part + 8]
        half += layer(x)
    return out


@case("selection(a(x), c(x))")
def values_added_at_places(m, x):
    h = m.a(x).clone()
    h.index_put_((torch.tensor([1]),), m.c(x)[:1], accumulate=True)
    return h


@case("selection(a(x), c(x))")
def values_added_at_places_by_position(m, x):
    return m.a(x).clone().index_put_((torch.tensor([1]),), m.c(x)[:1], True)


@case("pooling(a(x), c(x))")
def index_add(m, x):
    return m.a(x).index_add_(0, torch.tensor([1]), m.c(x)[:1])


@case("cat(.5 a(x), .5 c(x))", rows(4, 6), torch.tensor([0, 1]))
def rows_by_an_input(m, x, index):
    h = m.a(x)
    h[index] = m.c(x)[index]
    return h


@case("cat(.5 a(x), .5 c(x))", rows(4, 6), torch.tensor([True, False, True, False]))
def rows_by_an_input_mask(m, x, keep):
    h = m.a(x)
    h[keep] = m.c(x)[keep]
    return h


@case("relu(cat(.4 a(x), .6 sum(cat(.4 a(x), .6 c(x)), c(x))))")
def the_same_rows_written_twice(m, x):
    h, c, chosen = m.a(x), m.c(x), torch.tensor([0, 2, 3])
    h[chosen] = c[chosen]
    h[chosen] += c[chosen]
    return F.relu(h)


# Whole tensors written through views


@case("times 2(a(x))")
def a_flat_view_multiplied(m, x):
    h = m.a(x)
    h.view(-1).mul_(2)
    return h


@case("relu(a(x))")
def relu_through_a_transpose(m, x):
    h = m.a(x)
    h.t().relu_()
    return h


@case("b(relu(a(x)))")
def an_old_view_after_a_write(m, x):
    h = m.a(x)
    seen = h.view(8, 5)
    h.relu_()
    return m.b(seen.view(5, 8))


@case("sum(b(relu(a(x))), relu(a(x)))")
def both_names_after_a_write(m, x):
    h = m.a(x)
    y = F.relu(h, inplace=True)
    return m.b(h) + y


@case("product(b(relu(a(x))), a(x))")
def a_clone_is_not_written(m, x):
    h = m.a(x)
    kept = h.clone()
    h.relu_()
    return m.b(h) * kept


@case("cat(.5 a(x), .5 relu(a(x)))")
def a_narrow_part_written(m, x):
    h = m.a(x)
    h.narrow(1, 0, 4).relu_()
    return h


@case("relu(a(x))")
def out_argument(m, x):
    with torch.no_grad():
        h, out = m.a(x), torch.empty(5, 8)
        torch.clamp(h, min=0, out=out)
    return out


@case("cat(.5 a(x), .5 c(x))")
def cat_with_out(m, x):
    with torch.no_grad():
        out = torch.empty(5, 16)
        torch.cat((m.a(x), m.c(x)), 1, out=out)
    return out


@case("a(x)")
def copied(m, x):
    out = torch.zeros(5, 8)
    out.copy_(m.a(x))
    return out


@case("sum(a(x), c(x))")
def added_in_place(m, x):
    out = m.a(x)
    out += m.c(x)
    return out


@case("sum(relu(a(x)), c(x))")
def residual_in_place_after_relu_in_place(m, x):
    identity, out = m.c(x), m.a(x)
    out = F.relu_(out)
    out += identity
    return out


@case("sum(a(x), c(x))")
def added_in_place_to_a_view(m, x):
    out = m.a(x)
    out.view(-1).add_(m.c(x).view(-1))
    return out


@case("product(a(x), sigmoid(c(x)))")
def multiplied_in_place(m, x):
    out = m.a(x)
    out *= torch.sigmoid(m.c(x))
    return out


@case("sum(plus 0(a(x)), c(x))")
def sum_of_a_list_in_place(m, x):
    out = torch.zeros(5, 8)
    for part in (m.a(x), m.c(x)):
        out += part
    return out


@case("times 0(a(x))")
def zeroed_by_a_product(m, x):
    return m.a(x) * 0


@case("opaque:foreach_clamp_min(a(x))")
def foreach(m, x):
    with torch.no_grad():
        h = m.a(x)
        torch._foreach_clamp_min_([h], 0.0)
    return h


# Behind autograd's back


@case("c(x)")
def data_swapped(m, x):
    h = m.a(x)
    h.data = m.c(x).data
    return h


@case("relu(a(x))")
def written_through_data(m, x):
    h = m.a(x)
    h.data.relu_()
    return h


@case("relu(a(x))")
def written_through_detach(m, x):
    h = m.a(x)
    h.detach().relu_()
    return h


@case("cat(.75 a(x), .25 c(x))")
def a_slice_written_through_data(m, x):
    h = m.a(x)
    h.data[:, :2] = m.c(x)[:, :2]
    return h


@case("b(relu(a(x)))")
def a_view_read_after_a_data_write(m, x):
    h = m.a(x)
    seen = h[:, :]
    h.data.relu_()
    return m.b(seen)


@case("a(x)")
def no_gradient_inside(m, x):
    with torch.no_grad():
        return m.a(x)


@case("relu(a(x))")
def inference_mode_inside(m, x):
    with torch.inference_mode():
        return m.a(x).relu_()


# Parts are kept apart


@case("product(a(x), sigmoid(a(x)))")
def chunks_are_not_swish(m, x):
    left, right = m.a(x).chunk(2, dim=1)
    return left * torch.sigmoid(right)


@case("product(a(x), sigmoid(a(x)))")
def split_is_not_swish(m, x):
    left, right = m.a(x).split(4, dim=1)
    return left * torch.sigmoid(right)


@case("product(a(x), sigmoid(a(x)))")
def unbind_is_not_swish(m, x):
    left, right = m.a(x).view(5, 2, 4).unbind(1)
    return left * torch.sigmoid(right)


@case("product(a(x), sigmoid(a(x)))")
def slices_are_not_swish(m, x):
    h = m.a(x)
    return h[:, :4] * torch.sigmoid(h[:, 4:])


@case("product(a(x), sigmoid(a(x)))", traced=True)
def strided_slices_are_not_swish(m, x):
    h = m.a(x)
    return h[..., ::2] * torch.sigmoid(h[..., 1::2])


@case("silu(a(x))", traced=True)
def the_same_part_is_swish(m, x):
    h = m.a(x)[:, :4]
    return h * torch.sigmoid(h)


@case("cat(.5 a(x), .5 times -1(a(x)))")
def rotated_halves(m, x):
    left, right = m.a(x).chunk(2, dim=-1)
    return torch.cat((right, -left), dim=-1)


# A shape lent


@case("plus 0(a(x))")
def zeros_like(m, x):
    h = m.a(x)
    return h + torch.zeros_like(m.c(x))


@case("output")
def new_zeros_alone(m, x):
    return m.a(x).new_zeros(5, 8) + m.u


@case("a(x)")
def shapes_lent(m, x):
    h, other = m.a(x), m.c(x)
    h = h.view_as(other).reshape_as(other).expand_as(other).type_as(other)
    return h[: other.shape[0]].view(other.size())


@case("a(x)", traced=True)
def size_of_another(m, x):
    return m.a(x).reshape(m.c(x).size(0), -1)


@case("plus ~(a(x))")
def noise_of_another_shape(m, x):
    h = m.a(x)
    return h + torch.randn_like(m.c(x))
