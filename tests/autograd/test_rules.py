"""The rules of backward, checked side by side with PyTorch."""

from __future__ import annotations

import pytest
from sides import agree


def leaf(m, *values, **kw):
    return m.tensor(list(values), requires_grad=True, **kw)


def second_backward(m):
    x = leaf(m, 1.0, 2.0)
    y = (x * x).sum()
    y.backward()
    y.backward()


def second_backward_of_linear(m):
    x = leaf(m, 1.0, 2.0)
    y = (x + x).sum()
    y.backward()
    y.backward()
    return x.grad


def retain(m):
    x = leaf(m, 1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    return x.grad


def no_grad_fn(m):
    m.tensor([1.0]).backward()


def not_scalar(m):
    (leaf(m, 1.0, 2.0) * 2).backward()


def one_element(m):
    x = leaf(m, 3.0)
    (x * 2).backward()
    return x.grad


def grad_shape(m):
    (leaf(m, 1.0, 2.0) * 2).backward(m.ones(3))


def inplace_leaf(m):
    leaf(m, 1.0, 2.0).add_(1)


def inplace_view_of_leaf(m):
    leaf(m, 1.0, 2.0)[0].add_(1)


def inplace_view_of_view_of_leaf(m):
    leaf(m, 1.0, 2.0)[0:2][0].add_(1)


def inplace_unbind(m):
    a, _ = (leaf(m, 1.0, 2.0) * 2).unbind(0)
    a.mul_(2)


def inplace_split(m):
    a, _ = (leaf(m, 1.0, 2.0) * 2).split(1)
    a.mul_(2)


def inplace_no_grad_view(m):
    x = leaf(m, 1.0, 2.0)
    y = x * 2
    with m.no_grad():
        v = y[0]
    v.mul_(leaf(m, 1.0)[0] * 1)


def inplace_no_grad_view_plain(m):
    x = leaf(m, 1.0, 2.0)
    y = x * 2
    with m.no_grad():
        v = y[0]
    v.mul_(2)


def version(m):
    x = leaf(m, 1.0, 2.0)
    y = x.exp()
    y.add_(1)
    y.sum().backward()


def version_through_detach(m):
    x = leaf(m, 1.0, 2.0)
    y = x.exp()
    y.detach().add_(1)
    y.sum().backward()


def version_of_input(m):
    x = leaf(m, 1.0, 2.0)
    y = x * 1
    z = y * y
    y.add_(1)
    z.sum().backward()


def version_of_leaf(m):
    x = leaf(m, 1.0, 2.0)
    y = x * x
    with m.no_grad():
        x.add_(1)
    y.sum().backward()


def not_saved(m):
    x = leaf(m, 1.0, 2.0)
    y = x * 2
    z = y + 1
    y.add_(1)
    z.sum().backward()
    return x.grad


def view_shares_version(m):
    x = m.zeros(3)
    v, d = x[0], x.detach()
    a = (x._version, v._version, d._version)
    v.add_(1)
    return a, x._version, v._version, d._version, x.data._version


def inplace_on_view_reaches_base(m):
    x = leaf(m, 1.0, 2.0, 3.0)
    y = x * 2
    y[1:].mul_(10)
    y.sum().backward()
    return y, x.grad, y.grad_fn is not None


def inplace_on_base_reaches_view(m):
    x = leaf(m, 1.0, 2.0, 3.0)
    y = x * 2
    v = y[1:]
    y.mul_(5)
    v.sum().backward()
    return v, x.grad


def grad_identity(m):
    x = leaf(m, 1.0, 2.0)
    (x * 2).sum().backward()
    g = x.grad
    (x * 3).sum().backward()
    return g is x.grad, g, x.grad._version


def grad_set_none(m):
    x = leaf(m, 1.0, 2.0)
    (x * 2).sum().backward()
    x.grad = None
    (x * 3).sum().backward()
    return x.grad


def grad_wrong_shape(m):
    x = leaf(m, 1.0, 2.0)
    x.grad = m.ones(3)


def grad_wrong_dtype(m):
    x = leaf(m, 1.0, 2.0)
    x.grad = m.ones(2, dtype=m.float64)


def grad_not_tensor(m):
    x = leaf(m, 1.0, 2.0)
    x.grad = 1


def root_is_leaf(m):
    x = leaf(m, 2.0)
    x.backward()
    return x.grad


def root_and_leaf(m):
    x = leaf(m, 2.0)
    y = x * 3
    m.autograd.backward([x, y, y])
    return x.grad


def only_inputs(m):
    a, b = leaf(m, 2.0), leaf(m, 3.0)
    (a * b).backward(inputs=[a])
    return a.grad, b.grad


def inputs_not_leaf(m):
    a = leaf(m, 2.0)
    h = a * 2
    (h * h).backward(inputs=[h])
    return h.grad, a.grad


def inputs_empty(m):
    leaf(m, 2.0).backward(inputs=[])


def grad_unused(m):
    a, b = leaf(m, 2.0), leaf(m, 3.0)
    m.autograd.grad(a * 2, [a, b])


def grad_allow_unused(m):
    a, b = leaf(m, 2.0), leaf(m, 3.0)
    return m.autograd.grad(a * 2, [a, b], allow_unused=True)


def grad_materialize(m):
    a, b = leaf(m, 2.0), leaf(m, 3.0)
    return m.autograd.grad(a * 2, [a, b], materialize_grads=True)


def grad_not_required(m):
    m.autograd.grad(leaf(m, 2.0) * 2, m.tensor([1.0]))


def grad_of_input_itself(m):
    x = leaf(m, 2.0, 3.0)
    return m.autograd.grad(x, x, m.tensor([5.0, 6.0]))


def grad_between(m):
    x = leaf(m, 2.0, 3.0)
    h = x * x
    y = h * h
    return m.autograd.grad(y.sum(), [h, x])


def grad_of_view(m):
    x = leaf(m, 2.0, 3.0)
    v = x.view(2)
    y = (v * x).sum()
    return m.autograd.grad(y, v)


def batched(m):
    x = leaf(m, 2.0, 3.0)
    return m.autograd.grad(x * x, x, m.eye(2), is_grads_batched=True)


def double(m):
    x = leaf(m, 2.0, 3.0)
    (g,) = m.autograd.grad((x**3).sum(), x, create_graph=True)
    (h,) = m.autograd.grad(g.sum(), x)
    return g, h, g.requires_grad, h.requires_grad


def double_by_backward(m):
    x = leaf(m, 2.0, 3.0)
    (g,) = m.autograd.grad((x * x).sum(), x, create_graph=True)
    ((x * x).sum() + (g * g).sum()).backward()
    return x.grad


def create_graph_replaces(m):
    x = leaf(m, 2.0)
    (x * x).backward(create_graph=True)
    g = x.grad
    (x * x).backward(create_graph=True)
    return g is x.grad, x.grad, x.grad.requires_grad


def broadcasting(m):
    a, b = m.ones(3, 1, requires_grad=True), m.full((1, 4), 2.0, requires_grad=True)
    (a * b).sum().backward()
    return a.grad, b.grad


def mixed_types(m):
    a, b = m.ones(3, requires_grad=True), m.full((3,), 2.0, dtype=m.float64, requires_grad=True)
    (a * b).sum().backward()
    return a.grad, b.grad, str(a.grad.dtype), str(b.grad.dtype)


def integer_requires_grad(m):
    m.tensor([1, 2]).requires_grad_()


def integer_requires_grad_at_birth(m):
    m.tensor([1, 2], requires_grad=True)


def complex_gradient(m):
    z = m.tensor([1 + 2j, 3 - 1j], requires_grad=True)
    (z * z.conj()).real.sum().backward()
    return z.grad


def complex_root(m):
    z = m.tensor([1 + 2j], requires_grad=True)
    (z * z).sum().backward()


def detach_stops(m):
    x = leaf(m, 2.0)
    y = x * x
    (y.detach() * x).backward()
    return x.grad, y.detach().requires_grad


def no_history_in_no_grad(m):
    x = leaf(m, 2.0)
    with m.no_grad():
        y = x * x
    return y.requires_grad, y.is_leaf, x.is_leaf


def change_flag_of_result(m):
    (leaf(m, 2.0) * 2).requires_grad_(False)


def flag_setter(m):
    x = m.ones(2)
    x.requires_grad = True
    (x * 2).sum().backward()
    g = x.grad
    x.requires_grad = False
    return g, (x * 2).requires_grad, x.is_leaf


def data_write(m):
    x = leaf(m, 2.0)
    x.data.mul_(3)
    return x, x._version


def detach_in_place(m):
    x = leaf(m, 2.0)
    y = x * 2
    y.detach_()
    return y.requires_grad, y.is_leaf, y


def copy_into_slice(m):
    x = leaf(m, 1.0, 2.0, 3.0)
    y = m.zeros(5)
    y[1:4] = x * 2
    y.sum().backward()
    return y, x.grad


def fan_out(m):
    x = leaf(m, 1.0, 2.0)
    y = x * 2
    z = y * y + y
    z.sum().backward()
    return x.grad


def leaf_twice_in_one_op(m):
    x = leaf(m, 3.0)
    (x * x * x).backward()
    return x.grad


def index_results_no_grad(m):
    x = leaf(m, 3.0, 1.0)
    v, i = x.max(0)
    return v.requires_grad, i.requires_grad, x.argmax().requires_grad, (x > 0).requires_grad


def shared_subgraph_freed(m):
    x = leaf(m, 3.0, 1.0)
    h = x.exp()
    h.sum().backward()
    (h * 2).sum().backward()


def out_with_grad(m):
    x = leaf(m, 3.0, 1.0)
    m.add(x, x, out=m.zeros(2))


def inference(m):
    with m.inference_mode():
        x = m.ones(2)
        y = x * 2
    return x.is_inference(), y.is_inference(), y.requires_grad, m.is_grad_enabled()


def inference_written_outside(m):
    with m.inference_mode():
        x = m.ones(2)
    x.add_(1)


def inference_leaf(m):
    with m.inference_mode():
        x = m.ones(2)
    x.requires_grad_()


VALUES = [
    second_backward_of_linear,
    retain,
    one_element,
    not_saved,
    view_shares_version,
    inplace_on_view_reaches_base,
    inplace_on_base_reaches_view,
    grad_identity,
    grad_set_none,
    root_is_leaf,
    root_and_leaf,
    only_inputs,
    inputs_not_leaf,
    grad_allow_unused,
    grad_materialize,
    grad_of_input_itself,
    grad_between,
    grad_of_view,
    batched,
    double,
    double_by_backward,
    create_graph_replaces,
    broadcasting,
    mixed_types,
    complex_gradient,
    detach_stops,
    no_history_in_no_grad,
    flag_setter,
    data_write,
    detach_in_place,
    copy_into_slice,
    fan_out,
    leaf_twice_in_one_op,
    index_results_no_grad,
    inference,
]
ERRORS = [
    (second_backward, "Trying to backward through the graph a second time"),
    (shared_subgraph_freed, "Trying to backward through the graph a second time"),
    (no_grad_fn, "element 0 of tensors does not require grad and does not have a grad_fn"),
    (not_scalar, "grad can be implicitly created only for scalar outputs"),
    (grad_shape, "Mismatch in shape"),
    (inplace_leaf, "a leaf Variable that requires grad is being used in an in-place operation"),
    (
        inplace_view_of_leaf,
        "a view of a leaf Variable that requires grad is being used in an in-place operation",
    ),
    (
        inplace_view_of_view_of_leaf,
        "a view of a leaf Variable that requires grad is being used in an in-place operation",
    ),
    (inplace_unbind, "Output 0 of Unbind is a view and is being modified inplace"),
    (inplace_split, "Output 0 of Split is a view and is being modified inplace"),
    (
        inplace_no_grad_view,
        "A view was created in no_grad mode and is being modified inplace with grad mode enabled",
    ),
    (inplace_no_grad_view_plain, "A view was created in no_grad mode"),
    (version, "modified by an inplace operation", "output 0 of ", "version 1; expected version 0"),
    (version_through_detach, "modified by an inplace operation", "version 1; expected version 0"),
    (version_of_input, "modified by an inplace operation", "version 1; expected version 0"),
    (version_of_leaf, "modified by an inplace operation", "version 1; expected version 0"),
    (grad_wrong_shape, "attempting to assign a gradient of size"),
    (grad_wrong_dtype, "attempting to assign a gradient with dtype"),
    (grad_not_tensor, "assigned grad expected to be a Tensor or None"),
    (inputs_empty, "`inputs` argument to `backward()` cannot be empty"),
    (grad_unused, "The differentiated Tensor at index 1 appears to not have been used in the graph"),
    (grad_not_required, "One of the differentiated Tensors does not require grad"),
    (integer_requires_grad, "only Tensors of floating point"),
    (integer_requires_grad_at_birth, "can require gradients"),
    (complex_root, "grad can be implicitly created only for real scalar outputs"),
    (change_flag_of_result, "you can only change requires_grad flags of leaf variables"),
    (out_with_grad, "functions with out=... arguments don't support automatic differentiation"),
    (inference_written_outside, "Inplace update to inference tensor outside InferenceMode is not allowed"),
    (inference_leaf, "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed"),
]


@pytest.mark.parametrize("scenario", VALUES, ids=lambda f: f.__name__)
def test_values(scenario):
    agree(scenario)


@pytest.mark.parametrize(
    "scenario,words", [(e[0], e[1:]) for e in ERRORS], ids=lambda x: getattr(x, "__name__", "")
)
def test_errors(scenario, words):
    agree(scenario, *words)
