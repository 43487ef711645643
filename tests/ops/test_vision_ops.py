"""Padding, resizing, sampling and shuffling of images against PyTorch."""

import warnings

import numpy as np
import pytest
import torch

from tests.ops.against_torch import FUNCTIONAL, array, compare, same_error, to_fanal


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("shape", "amounts"),
    [
        ((2, 3, 5), (1, 2)),
        ((2, 3, 5, 6), (1, 2, 3, 0)),
        ((2, 3, 4, 5, 6), (1, 2, 3, 0, 1, 1)),
        ((2, 3, 5, 6), (-1, 2, 3, -2)),
    ],
)
def test_pad(mode, shape, amounts):
    compare("pad", shape, args=(amounts, mode))


@pytest.mark.parametrize(("amounts", "value"), [((1, 2), 0.0), ((1, -2, -1, 1), 2.5)])
def test_constant_pad(amounts, value):
    compare("pad", (2, 3, 5), args=(amounts, "constant", value))


SIZES = [
    {"scale_factor": 2},
    {"scale_factor": 1.7},
    {"scale_factor": 0.6},
    {"size": 6},
    {"scale_factor": 1.7, "recompute_scale_factor": True},
]


@pytest.mark.parametrize("kwargs", SIZES)
@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("nearest", (2, 3, 7)),
        ("nearest-exact", (2, 3, 5, 7)),
        ("nearest", (2, 3, 4, 5, 3)),
        ("area", (2, 3, 5, 7)),
        ("linear", (2, 3, 7)),
        ("bilinear", (2, 3, 5, 7)),
        ("trilinear", (1, 2, 4, 5, 3)),
        ("bicubic", (2, 3, 5, 7)),
    ],
)
def test_interpolate(mode, shape, kwargs):
    compare("interpolate", shape, mode=mode, **kwargs)
    if "linear" in mode or mode == "bicubic":
        compare("interpolate", shape, mode=mode, align_corners=True, **kwargs)
    if mode in ("bilinear", "bicubic"):
        compare("interpolate", shape, mode=mode, antialias=True, **kwargs)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_bytes_are_resized_to_the_bit(mode, antialias):
    u = torch.randint(0, 256, (2, 3, 32, 20), dtype=torch.uint8)
    for size in ((5, 6), (40, 9)):
        y = FUNCTIONAL["interpolate"](to_fanal(u), size=size, mode=mode, antialias=antialias)
        expected = torch.nn.functional.interpolate(u, size=size, mode=mode, antialias=antialias)
        np.testing.assert_array_equal(array(y), expected.numpy())


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample(mode, padding_mode, align_corners):
    kwargs = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    compare("grid_sample", (2, 3, 5, 7), (2, 4, 3, 2), rtol=1e-3, atol=1e-3, **kwargs)
    if mode != "bicubic":
        compare("grid_sample", (2, 3, 5, 4, 6), (2, 4, 3, 2, 3), rtol=1e-3, atol=1e-3, **kwargs)


@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_grid(align_corners):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare("affine_grid", (2, 2, 3), args=((2, 3, 4, 5),), align_corners=align_corners)
        compare("affine_grid", (2, 3, 4), args=((2, 3, 4, 5, 1),), align_corners=align_corners)


@pytest.mark.parametrize(
    ("name", "shape", "args"),
    [
        ("pixel_shuffle", (2, 8, 3, 4), (2,)),
        ("pixel_unshuffle", (2, 2, 6, 4), (2,)),
        ("channel_shuffle", (2, 6, 3, 4), (3,)),
        ("unfold", (2, 3, 6, 7), ((2, 3), 2, 1, (1, 2))),
        ("unfold", (3, 6, 7), (3,)),
        ("fold", (2, 12, 12), ((5, 4), (2, 2))),
    ],
)
def test_rearranging(name, shape, args):
    compare(name, shape, args=args)


R = torch.randn


@pytest.mark.parametrize(
    ("name", "tensors", "kwargs"),
    [
        ("pad", (R(1, 1, 2),), {"pad": (3, 3), "mode": "reflect"}),
        ("pixel_shuffle", (R(1, 3, 2, 2),), {"upscale_factor": 2}),
        ("interpolate", (R(1, 1, 2, 2),), {"size": 3, "scale_factor": 2}),
        ("interpolate", (R(1, 1, 2, 2),), {"size": 3, "align_corners": True}),
        ("grid_sample", (R(1, 1, 2, 2), R(2, 2, 2, 2)), {"align_corners": False}),
    ],
)
def test_errors(name, tensors, kwargs):
    same_error(name, *tensors, **kwargs)
