"""How samples become a batch: `collate` by the type of the first sample, and the default rules.

Differs from torch: NumPy arrays of one dtype and shape are stacked by NumPy and become one tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

import fanal
from fanal.core.tensor.host import stack_rows

__all__ = ["collate", "default_collate", "default_convert"]

CollateFns = dict[type | tuple[type, ...], Callable[..., Any]]

_WRONG_TYPE = "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {}"


def default_convert(data: Any) -> Any:
    """Turn every NumPy array or scalar inside `data` into a tensor; leave the rest as it is.

    This is the `collate_fn` of a `DataLoader` that makes no batches.
    """
    if isinstance(data, fanal.Tensor):
        return data
    if isinstance(data, (np.ndarray, np.generic)):
        return data if data.dtype.kind in "SUO" else fanal.as_tensor(data)
    if isinstance(data, Mapping):
        return _rebuild_mapping(data, {key: default_convert(data[key]) for key in data})
    if isinstance(data, tuple):
        parts = [default_convert(part) for part in data]
        return type(data)(*parts) if hasattr(data, "_fields") else parts
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _rebuild_sequence(data, [default_convert(part) for part in data])
    return data


def collate(batch: Sequence[Any], *, collate_fn_map: CollateFns | None = None) -> Any:
    """Join the samples of `batch` into one, by the type of the first.

    `collate_fn_map` says what to do with leaves: {type: fn(batch, *, collate_fn_map)}, looked up by the exact
    type, then by `isinstance` in its own order. Mappings, named tuples and sequences are walked through.
    Raises: RuntimeError where sequences differ in length; TypeError for a leaf without a rule.
    """
    first = batch[0]
    if collate_fn_map is not None:
        rule = collate_fn_map.get(type(first))
        if rule is None:
            rule = next((fn for kind, fn in collate_fn_map.items() if isinstance(first, kind)), None)
        if rule is not None:
            return rule(batch, collate_fn_map=collate_fn_map)

    def join(samples: Sequence[Any]) -> Any:
        return collate(samples, collate_fn_map=collate_fn_map)

    if isinstance(first, Mapping):
        return _rebuild_mapping(first, {key: join([sample[key] for sample in batch]) for key in first})
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(join(column) for column in zip(*batch, strict=False)))
    if isinstance(first, Sequence):
        lengths = {len(sample) for sample in batch}
        if len(lengths) > 1:
            raise RuntimeError(
                "each element in list of batch should be of equal size; "
                f"found lengths {sorted(lengths)} in one batch (pad them in a collate_fn)"
            )
        columns = [join(column) for column in zip(*batch, strict=True)]
        return columns if isinstance(first, tuple) else _rebuild_sequence(first, columns)
    raise TypeError(_WRONG_TYPE.format(type(first)))


def default_collate(batch: Sequence[Any]) -> Any:
    """Join samples into a batch with a new first dimension.

    Shapes: tensors and arrays (...) -> tensor (B, ...); numbers -> (B,).
    Dtypes: float -> float64, int -> int64, bool -> bool, arrays keep theirs; str and bytes stay lists.
    Raises: RuntimeError where shapes or lengths differ; TypeError for other types.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)


def _collate_tensors(batch: Sequence[Any], *, collate_fn_map: CollateFns | None = None) -> Any:
    stacked = stack_rows(batch)
    return fanal.stack(list(batch), 0) if stacked is None else stacked


def _collate_arrays(batch: Sequence[np.ndarray], *, collate_fn_map: CollateFns | None = None) -> Any:
    first = batch[0]
    if first.dtype.kind in "SUO":
        raise TypeError(_WRONG_TYPE.format(first.dtype))
    if all(type(a) is np.ndarray and a.dtype == first.dtype and a.shape == first.shape for a in batch):
        return fanal.as_tensor(np.ascontiguousarray(np.stack(batch)))
    # Different dtypes promote, and different shapes raise, as tensors do.
    return collate([fanal.as_tensor(a) for a in batch], collate_fn_map=collate_fn_map)


def _collate_array_scalars(batch: Sequence[Any], *, collate_fn_map: CollateFns | None = None) -> Any:
    first = batch[0]
    if all(getattr(a, "dtype", None) == first.dtype for a in batch):
        return fanal.as_tensor(np.array(batch))
    return fanal.as_tensor(list(batch))


def _collate_floats(batch: Sequence[float], *, collate_fn_map: CollateFns | None = None) -> Any:
    return fanal.tensor(list(batch), dtype=fanal.float64)


def _collate_ints(batch: Sequence[int], *, collate_fn_map: CollateFns | None = None) -> Any:
    return fanal.tensor(list(batch))


def _collate_text(batch: Sequence[Any], *, collate_fn_map: CollateFns | None = None) -> Sequence[Any]:
    return batch


default_collate_fn_map: CollateFns = {
    fanal.Tensor: _collate_tensors,
    np.ndarray: _collate_arrays,
    (np.bool_, np.number, np.object_): _collate_array_scalars,
    float: _collate_floats,
    int: _collate_ints,
    str: _collate_text,
    bytes: _collate_text,
}


def _rebuild_mapping(like: Mapping, items: dict) -> Any:
    """A mapping of `like`'s type with `items`, or a dict where the type cannot be made so."""
    try:
        if isinstance(like, MutableMapping):
            # A copy keeps what the type holds besides its items, such as a default factory.
            clone = copy.copy(like)
            clone.update(items)
            return clone
        return type(like)(items)  # type: ignore[call-arg]
    except TypeError:
        return items


def _rebuild_sequence(like: Sequence, items: Iterable[Any]) -> Any:
    """A sequence of `like`'s type with `items`, or a list where the type cannot be made so."""
    items = list(items)
    try:
        if isinstance(like, MutableSequence):
            clone = copy.copy(like)
            for i, item in enumerate(items):
                clone[i] = item
            return clone
        return type(like)(items)  # type: ignore[call-arg]
    except TypeError:
        return items
