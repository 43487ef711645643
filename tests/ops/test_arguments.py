"""What PyTorch's argument parser refuses: numbers for tensors, values without a place in a dtype."""

import numpy as np
import pytest
import torch
import torch.nn.functional

import fanal
import fanal.nn.functional
from fanal.core.engine.ledger import ledger

CALLS = {
    **{f"{n} without a size": lambda m, n=n: getattr(m, n)() for n in ("zeros", "ones", "empty")},
    **{
        f"{n} without a size": lambda m, n=n: getattr(m.ones(2), n)()
        for n in ("new_zeros", "new_ones", "new_empty", "reshape", "permute", "repeat", "flip", "tile", "sum_to_size")
    },
    "size of no number": lambda m: m.zeros(dtype=m.int64),
    "exp": lambda m: m.exp(2),
    "maximum": lambda m: m.maximum(m.ones(2), 2),
    "fmin": lambda m: m.fmin(2, m.ones(2)),
    "atan2": lambda m: m.atan2(m.ones(2), 2),
    "hypot method": lambda m: m.ones(2).hypot(2),
    "complex": lambda m: m.complex(m.ones(2), 2),
    "polar": lambda m: m.polar(2, m.ones(2)),
    "relu": lambda m: m.nn.functional.leaky_relu([1.0]),
    "logical_and method": lambda m: m.ones(2).logical_and(1),
    "isclose": lambda m: m.isclose(m.ones(2), 1.0),
    "gcd method": lambda m: m.tensor([4]).gcd(2),
    "heaviside": lambda m: m.heaviside(m.ones(2), 1.0),
    "logaddexp": lambda m: m.logaddexp(m.ones(2), 1.0),
    "igamma": lambda m: m.igamma(m.ones(2), 1.0),
    "mm": lambda m: m.mm(m.ones(1, 1, dtype=m.int16), m.ones(1, 1, dtype=m.int8)),
    "masked_fill": lambda m: m.ones(2).masked_fill(m.tensor(True), 1j),
    "fill_": lambda m: m.ones(2, dtype=m.int8).fill_(300),
    "clamp": lambda m: m.ones(2, dtype=m.int8).clamp(300),
    "setitem": lambda m: m.ones(2, dtype=m.uint8).__setitem__(0, 256),
    "weight of margin loss": lambda m: m.nn.functional.multi_margin_loss(
        m.ones(2, 3), m.tensor([0, 1]), weight=m.ones(2, 3)
    ),
    "targets of margin loss": lambda m: m.nn.functional.multi_margin_loss(m.ones(2, 3), m.ones(2)),
    "no classes": lambda m: m.nn.functional.multilabel_margin_loss(m.ones(0), m.ones(0).long()),
    "eps of batch norm": lambda m: m.nn.functional.batch_norm(m.ones(2, 3), None, None, training=True, eps=0),
    "ignored class of probabilities": lambda m: m.nn.functional.cross_entropy(
        m.ones(2, 3), m.ones(2, 3), ignore_index=1
    ),
    "text": lambda m: m.tensor("a"),
    "list of texts": lambda m: m.tensor(["a"]),
    "float of many": lambda m: float(m.ones(3)),
    "int of none": lambda m: int(m.ones(0)),
    "int of a complex number": lambda m: int(m.tensor(1j)),
    "dtype": lambda m: m.ones(2, dtype="x"),
    "division of integers by zero": lambda m: m.arange(3) // 0,
    "remainder of integers by zero": lambda m: m.arange(3) % 0,
    "fmod of integers by zero": lambda m: m.arange(3).fmod(0),
    "step": lambda m: m.arange(0, 4, 0.5, dtype=m.int64),
    "weights in three dimensions": lambda m: m.multinomial(m.ones(1, 2, 3), 2),
    "more dimensions than NumPy has": lambda m: m.from_numpy(np.ones(1)).reshape([1] * 65).amax(-1),
    "joint loss": lambda m: m.nn.functional.linear_cross_entropy(
        m.ones(2, 3), m.ones(2, 3), m.ones(2, 2), ignore_index=0
    ),
}


NO_SIZES = {
    "eye": lambda m: m.eye(2.0),
    "eye, columns": lambda m: m.eye(2, 3.0),
    "start of narrow": lambda m: m.ones(2, 3).narrow(1, 0.0, 2),
    "none": lambda m: m.rand(),
    "none of normal numbers": lambda m: m.randn(),
    "float": lambda m: m.zeros(2.0),
    "floats": lambda m: m.rand(2, 3.0),
    "float in a tuple": lambda m: m.full((2.0,), 1),
    "truth value": lambda m: m.ones(True),
    "tensor of a float": lambda m: m.empty(m.tensor(3.0)),
    "number for full": lambda m: m.full(2, 1),
    "number for randint": lambda m: m.randint(3, 2),
    "float for Tensor": lambda m: m.Tensor(2, 3.0),
    "float for new_zeros": lambda m: m.ones(1).new_zeros(2.0),
}


@pytest.mark.parametrize("name", NO_SIZES)
def test_no_size(name):
    for m in (torch, fanal):
        with pytest.raises(TypeError):
            NO_SIZES[name](m)


def test_sizes_are_given_in_many_ways():
    for m in (torch, fanal):
        assert m.zeros(()).shape == m.zeros(size=()).shape == m.ones([]).shape == ()
        assert m.zeros(np.int64(2), m.tensor(3)).shape == m.rand(size=(2, 3)).shape == m.ones(1).new_ones(2, 3).shape
        assert m.zeros(m.tensor([2])).shape == m.ones(2).repeat(repeats=(1,)).shape == (2,)


# The sizes in an error stand in the order of the operands.
SHAPES = {
    "lerp": lambda m, a, b: m.lerp(a, b, 0.5),
    "lerp in place": lambda m, a, b: a.lerp_(b, 0.5),
    "lerp by a tensor": lambda m, a, b: m.lerp(a, a, b),
    "addcmul": lambda m, a, b: m.addcmul(a, b, a),
    "addcdiv": lambda m, a, b: m.addcdiv(a, b, b),
    "copysign": lambda m, a, b: m.copysign(a, b),
    "logaddexp": lambda m, a, b: m.logaddexp(a, b),
    "masked_fill": lambda m, a, b: a.masked_fill(b > 0, 1.0),
    "masked_select": lambda m, a, b: a.masked_select(b > 0),
    "masked_scatter": lambda m, a, b: a.masked_scatter(b > 0, b),
    "addmv": lambda m, a, b: m.addmv(m.ones(5), a, m.ones(3)),
    "index_copy": lambda m, a, b: a.index_copy_(0, m.tensor([0]), b),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_do_not_fit(name):
    messages = []
    for m in (torch, fanal):
        with pytest.raises((RuntimeError, IndexError)) as error:
            SHAPES[name](m, m.ones(2, 3), m.ones(4, 3))
        messages.append((error.type, str(error.value)))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("name", CALLS)
def test_wrong_argument(name):
    with pytest.raises(Exception) as expected:
        CALLS[name](torch)
    with pytest.raises(expected.type) as got:
        CALLS[name](fanal)
    assert str(got.value).split("\n")[0] == str(expected.value).split("\n")[0]


@pytest.mark.parametrize(
    "name", ["pow", "remainder", "fmod", "bitwise_and", "float_power", "rsub", "clamp_min"]
)
def test_two_numbers(name):
    for m in (torch, fanal):
        with pytest.raises(
            TypeError, match=r"invalid combination of arguments - got \(int, int\)|must be Tensor"
        ):
            getattr(m, name)(2, 3)


def test_two_numbers_where_pytorch_takes_them():
    for name in ("add", "mul", "sub", "div", "floor_divide", "true_divide"):
        expected = getattr(torch, name)(7, 2)
        got = getattr(fanal, name)(7, 2)
        assert got.item() == expected.item() and str(got.dtype) == str(expected.dtype)


def test_number_types_are_dtypes():
    for m in (torch, fanal):
        assert m.zeros(2, dtype=float).dtype is m.float64
        assert m.ones(2, dtype=int).dtype is m.int64
        assert m.ones(2).to(bool).dtype is m.bool
        assert m.ones(2).sum(dtype=float).dtype is m.float64
        assert m.softmax(m.ones(2), 0, dtype=float).dtype is m.float64
        assert complex(m.tensor(1j)) == 1j and float(m.tensor(2 + 0j)) == 2.0


BY_NAME = {
    "reduction as a number": lambda m: m.hinge_embedding_loss(m.arange(3.0), m.ones(3), 1.0, 2),
    "reduction none": lambda m: m.margin_ranking_loss(m.ones(2), m.zeros(2), m.ones(2), reduction=0),
    "reduction sum": lambda m: m.cosine_embedding_loss(m.ones(2, 3), m.eye(2, 3), -m.ones(2), 0.1, 2),
    "reduction of triplets": lambda m: m.triplet_margin_loss(
        m.ones(2, 3), m.zeros(2, 3), m.ones(2, 3), 1.0, 2.0, 1e-6, False, 2
    ),
    "swapaxes": lambda m: m.swapaxes(m.eye(2, 3), axis0=0, axis1=1),
    "swapaxes method": lambda m: m.eye(2, 3).swapaxes(axis0=0, axis1=1),
    "split method": lambda m: m.arange(4).split(split_size=3)[1],
    "unsafe_split": lambda m: m.unsafe_split(input=m.arange(4), split_size=3)[1],
    "tensor_split at indices": lambda m: m.tensor_split(m.arange(4), indices=(1, 3))[1],
    "tensor_split in sections": lambda m: m.arange(5).tensor_split(sections=2)[0],
    "hsplit": lambda m: m.hsplit(m.arange(4), sections=2)[1],
    "vsplit": lambda m: m.vsplit(m.eye(4), indices=(1,))[1],
    "det": lambda m: m.det(input=m.eye(2)),
    "inverse": lambda m: m.inverse(input=2 * m.eye(1)),
    "cholesky": lambda m: m.linalg.cholesky(input=m.eye(2)),
    "cholesky_solve": lambda m: m.cholesky_solve(input=m.ones(2, 1), input2=m.eye(2)),
    "eigh": lambda m: m.linalg.eigh(input=m.eye(2)).eigenvalues,
    "lstsq": lambda m: m.linalg.lstsq(input=m.eye(2), b=m.ones(2, 1)).solution,
    "norm": lambda m: m.linalg.norm(input=m.ones(2)),
    "ormqr": lambda m: m.ormqr(input=m.eye(2), input2=m.zeros(2), input3=m.ones(2, 2)),
    "one_hot": lambda m: m.nn.functional.one_hot(input=m.tensor([0, 2])),
    "copy_": lambda m: m.ones(2).copy_(other=m.zeros(2)),
    "resize_as_": lambda m: m.ones(2).resize_as_(the_template=m.ones(1)),
    "in-place relu": lambda m: m.nn.functional.relu(m.tensor([-1.0, 2.0]), inplace=True),
    "in-place threshold": lambda m: m.threshold_(m.tensor([-1.0, 2.0]), threshold=0, value=3.0),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_arguments_have_the_names_and_the_order_of_pytorchs_parser(name):
    torch.testing.assert_close(torch.tensor(BY_NAME[name](fanal).tolist()), torch.tensor(BY_NAME[name](torch).tolist()))


UNKNOWN = {
    "relu": lambda m: m.relu(m.ones(2), inplace=True),
    "relu method": lambda m: m.ones(2).relu(True),
    "celu": lambda m: m.celu(m.ones(2), inplace=True),
    "threshold": lambda m: m.threshold(m.ones(2), 0, 1, inplace=True),
    "max_pool1d": lambda m: m.max_pool1d(m.ones(1, 1, 4), 2, return_indices=True),
    "max_pool2d": lambda m: m.max_pool2d(m.ones(1, 1, 4, 4), 2, return_indices=True),
    "reduction as a name": lambda m: m.hinge_embedding_loss(m.ones(2), m.ones(2), reduction="sum"),
    "two ways to split": lambda m: m.tensor_split(m.ones(2), 2, sections=2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_torch_has_no_arguments_of_nn_functional(name):
    for m in (torch, fanal):
        with pytest.raises(TypeError):
            UNKNOWN[name](m)


WITHOUT_KERNEL = {
    "hypot": lambda m: m.hypot(m.tensor([3]), m.tensor([4])),
    "nextafter": lambda m: m.nextafter(m.tensor([1]), m.tensor([2])),
    "lerp": lambda m: m.lerp(m.tensor([1]), m.tensor([3]), 0.5),
    "var_mean": lambda m: m.var_mean(m.tensor([1, 2])),
    "std_mean": lambda m: m.std_mean(m.tensor([1, 2])),
    "relu": lambda m: m.relu(m.tensor([True])),
    "clamp": lambda m: m.clamp(m.tensor([1j]), 0),
    "maximum": lambda m: m.maximum(m.tensor([1j]), m.tensor([1j])),
    "amax": lambda m: m.amax(m.tensor([1j])),
    "argmax": lambda m: m.argmax(m.tensor([True])),
    "argmax of nothing": lambda m: m.argmax(m.zeros(0)),
    "sign": lambda m: m.sign(m.tensor([1j])),
    "floor": lambda m: m.floor(m.tensor([1j])),
    "trunc": lambda m: m.trunc(m.tensor([True])),
    "round": lambda m: m.round(m.tensor([15]), decimals=-1),
    "frac": lambda m: m.frac(m.tensor([1])),
    "abs": lambda m: m.abs(m.tensor([True])),
    "fmod": lambda m: m.fmod(m.tensor([1j]), 1),
    "remainder": lambda m: m.remainder(m.tensor([1j]), 1),
    "floor_divide": lambda m: m.tensor([1j]) // 1,
    "bitwise_and": lambda m: m.ones(2) & 1,
    "shift": lambda m: m.ones(2) << 1,
    "invert": lambda m: ~m.ones(2),
    "bitwise_not": lambda m: m.bitwise_not(m.ones(2)),
    "range": lambda m: m.range(1, 0),
    "range without a step": lambda m: m.range(0, 1, 0),
    "as_strided": lambda m: m.ones(4).as_strided((2,), (1,), -1),
    "rot90": lambda m: m.ones(2, 2).rot90(1, (0, 2)),
}


@pytest.mark.parametrize("name", WITHOUT_KERNEL)
def test_what_pytorch_refuses(name):
    with pytest.raises(Exception) as expected:
        WITHOUT_KERNEL[name](torch)
    with pytest.raises(expected.type) as got:
        WITHOUT_KERNEL[name](fanal)
    assert str(got.value).split("\n")[0] == str(expected.value).split("\n")[0]


def test_combinations_of_none():
    assert fanal.combinations(fanal.arange(3), 0).shape == torch.combinations(torch.arange(3), 0).shape


OLD_FORMS = """
m.add(x, 2, y)
x.add(0.5, y)
x.clone().add_(2, y)
m.sub(x, 2, y)
x.clone().addcmul_(0.5, x, y)
m.addcdiv(x, 2, x, y)
m.addmm(2, x, 3, x, z)
x.addmm(2, 3, x, z)
x.addmm(2, x, z)
m.empty(size=(2, 3)).zero_()
m.zeros(size=(2, 3), dtype=m.int64)
m.ones(size=[4])
m.rand(size=(2,))
m.randn(size=(2, 2))
x.new_zeros(size=(1, 2))
m.LongTensor(range(3))
m.Tensor(range(3))
m.FloatTensor(x.size()).zero_()
m.Tensor(m.Size([2, 3])).zero_()
x.new(x.size()).zero_()
m.arange(end=5)
"""


@pytest.mark.filterwarnings("ignore:This overload")
@pytest.mark.parametrize("text", OLD_FORMS.strip().splitlines())
def test_older_forms_of_calls(text):
    def made(m):
        m.manual_seed(0)
        x, y, z = m.arange(6.0).reshape(2, 3), m.ones(2, 3), m.ones(3, 3)
        return eval(text, {"m": m, "x": x, "y": y, "z": z})

    own, other = made(fanal), made(torch)
    assert str(own.dtype) == str(other.dtype) and own.tolist() == other.tolist()


def test_an_optimizer_written_in_an_older_form_is_followed():
    p = fanal.nn.Linear(3, 2)
    for step in range(8):
        before = ledger.recorded
        p.zero_grad()
        p(fanal.ones(4, 3)).sum().backward()
        for q in p.parameters():
            q.data.add_(-0.1 / (step + 1), q.grad.data)
        p.weight.sum().item()
    assert ledger.recorded == before


def test_no_limit_and_too_many_arguments():
    with pytest.raises(TypeError, match="arange"):
        fanal.arange()
    with pytest.raises(TypeError):
        fanal.add(fanal.ones(1), 2, 3)
