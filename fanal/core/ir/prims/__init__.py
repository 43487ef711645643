"""The rows, by kind."""
from fanal.core.ir.prims.attention import attention, attention_grad, stats_at
from fanal.core.ir.prims.contract import conv, conv_dw, conv_dx, conv_size, dot, swap
from fanal.core.ir.prims.index import argsort, gather, host, put, scatter, take
from fanal.core.ir.prims.point import (abs_, acos, acosh, add, and_, asin, asinh, atan, atan2, atanh, bitcast, ceil, conj,
                                       convert, cos, cosh, digamma_value, div, eq, erf, erfc, erfinv, exp, expm1,
                                       floor, fmod, idiv, imag, le, lgamma, log, log1p, log2, lt, max_, min_, mul, ne,
                                       neg, nextafter, not_, num, or_, polygamma, polygamma_value, pow_, real, round_,
                                       scalar_map, shl, shr, sign, sin, sinh, sqrt, sub, tan, tanh, trunc, where, xor)
from fanal.core.ir.prims.pool import max_pool, max_pool_at, max_pool_dx
from fanal.core.ir.prims.reduce import argmax, argmin, max_of, min_of, prod, scan, spread_back, sum_
from fanal.core.ir.prims.source import full, given, input_, iota, philox
from fanal.core.ir.prims.view import (alias, broadcast, concat, detach, flip, fold, pad, disjoint, permute, recast, region_of_zeros,
                                      reshape, slice_, strided, sum_to, tape, update_slice, window, zeros)

__all__ = [name for name in dir() if not name.startswith("__")]
