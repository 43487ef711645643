"""What TensorBoard is told: numbers, histograms, images, texts and curves as protocol messages.

Source: the messages and plugins of the tensorboard package (tensorboard/compat/proto, tensorboard/plugins).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from tensorboard.compat.proto.histogram_pb2 import HistogramProto
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2 as hparams_data
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util.tensor_util import make_tensor_proto

import fanal
from fanal.utils.tensorboard import pictures

_TINY = 1e-7  # keeps a quotient finite


def array_of(x: Any) -> np.ndarray:
    """Return a tensor, an array or a number as an array."""
    if isinstance(x, fanal.Tensor):
        x = x.detach()
        return (x.float() if x.dtype is fanal.bfloat16 else x).numpy()
    if isinstance(x, np.ndarray):
        return x
    if np.isscalar(x):
        return np.array([x])
    raise NotImplementedError(f"Got {type(x)}, but numpy array or torch tensor are expected.")


def _one(tag: str, **content: Any) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, **content)])


def scalar(tag: str, value: Any, new_style: bool, double_precision: bool) -> Summary:
    """Return a number. new_style: as a tensor, which TensorBoard loads faster, and in double precision if wanted."""
    number = array_of(value).squeeze()
    if number.ndim:
        raise AssertionError(f"Tensor should contain one element (0 dimensions). Was given size: {number.size}.")
    if not new_style:
        return _one(tag, simple_value=float(number))
    listed = _listed(number.astype(np.float64 if double_precision else np.float32))
    listed.ClearField("tensor_shape")
    return _one(tag, tensor=listed, metadata=SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=scalar_metadata.PLUGIN_NAME)))


def _listed(array: np.ndarray) -> TensorProto:
    """Return an array as a message that lists its numbers one by one, as PyTorch's do, if there is a field for it."""
    proto = make_tensor_proto(array)
    field = {"f4": "float_val", "f8": "double_val", "i4": "int_val", "i8": "int64_val"}.get(array.dtype.str[1:])
    if field is None:
        return proto
    return TensorProto(dtype=proto.dtype, tensor_shape=proto.tensor_shape, **{field: array.reshape(-1).tolist()})


@cache
def default_edges() -> list[float]:
    """Return the edges of a histogram that grow by a tenth from 1e-12 to 1e20, on both sides of zero."""
    edges = [1e-12]
    while edges[-1] < 1e20:
        edges.append(edges[-1] * 1.1)
    edges.pop()
    return [-x for x in reversed(edges)] + [0.0] + edges


def histogram(tag: str, values: Any, bins: Any, max_bins: int | None) -> Summary:
    """Return how many values lie in each bin; empty bins at both ends are left out."""
    x = array_of(values).astype(float).reshape(-1)
    if not x.size:
        raise ValueError("The input has no element.")
    counts, edges = np.histogram(x, bins=bins)
    if max_bins is not None and len(counts) > max_bins:
        several = len(counts) // max_bins
        counts = np.pad(counts, (0, -len(counts) % several)).reshape(-1, several).sum(1)
        last, edges = edges[-1], edges[::several]
        edges = edges if len(edges) > len(counts) else np.append(edges, last)
    filled = np.flatnonzero(counts)
    first, end = (filled[0], filled[-1] + 1) if filled.size else (0, len(counts))
    # A bin is told by its upper edge, so one without values before the first says where that begins.
    below = [0] if first == 0 else []
    counts = [*below, *counts[first - (first > 0) : end]]
    limits = edges[first : end + 1]
    return _one(tag, histo=HistogramProto(min=x.min(), max=x.max(), num=len(x), sum=x.sum(), sum_squares=x.dot(x),
                                          bucket_limit=limits.tolist(), bucket=counts))


def histogram_raw(tag: str, **content: Any) -> Summary:
    """Return a histogram that was counted elsewhere."""
    return _one(tag, histo=HistogramProto(**content))


def image(tag: str, value: Any, layout: str, rescale: float = 1) -> Summary:
    """Return an image, or a batch of them side by side."""
    return _image(tag, pictures.pixels(pictures.upright(array_of(value), layout)), rescale)


def boxed_image(tag: str, value: Any, boxes: Any, layout: str, rescale: float, labels: Any) -> Summary:
    """Return an image with boxes drawn on it."""
    drawn = pictures.pixels(pictures.upright(array_of(value), layout))
    return _image(tag, pictures.draw_boxes(drawn, array_of(boxes), labels), rescale)


def _image(tag: str, drawn: np.ndarray, rescale: float) -> Summary:
    height, width, channels, encoded = pictures.png(drawn, rescale)
    return _one(tag, image=Summary.Image(height=height, width=width, colorspace=channels,
                                         encoded_image_string=encoded))


def video(tag: str, value: Any, fps: float) -> Summary:
    """Return films (N, T, C, H, W) side by side, as one that moves."""
    films = array_of(value)
    columns = 1 << (len(films).bit_length() // 2)
    frames = np.stack([pictures.grid(films[:, t], columns) for t in range(films.shape[1])])
    frames = pictures.pixels(frames.transpose(0, 2, 3, 1))
    _, height, width, channels = frames.shape
    return _one(tag, image=Summary.Image(height=height, width=width, colorspace=channels,
                                         encoded_image_string=pictures.gif(frames, fps)))


def audio(tag: str, value: Any, rate: int) -> Summary:
    """Return a sound of one channel."""
    sound = array_of(value).squeeze()
    if sound.ndim != 1:
        raise AssertionError("input tensor should be 1 dimensional.")
    if abs(sound).max() > 1:
        print("warning: audio amplitude out of range, auto clipped.")
        sound = sound.clip(-1, 1)
    return _one(tag, audio=Summary.Audio(sample_rate=rate, num_channels=1, length_frames=len(sound),
                                         encoded_audio_string=pictures.wav(sound, rate), content_type="audio/wav"))


def text(tag: str, words: str) -> Summary:
    """Return a text, shown as Markdown."""
    return _one(f"{tag}/text_summary", metadata=text_metadata.create_summary_metadata(None, None),
                tensor=make_tensor_proto([words.encode("utf_8")]))


def tensor(tag: str, value: Any) -> Summary:
    """Return all numbers of a tensor."""
    return _one(tag, tensor=_listed(array_of(value)), metadata=SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="tensor")))


def pr_curve(tag: str, labels: Any, predictions: Any, thresholds: int, weights: Any) -> Summary:
    """Return precision and recall at thresholds from 0 to 1, each example counted as often as its weight says."""
    y, p = array_of(labels), array_of(predictions)
    weight = np.ones_like(y, np.float64) if weights is None else np.asarray(weights, np.float64)
    bucket = np.int32(np.floor(p * (thresholds - 1)))
    hits, alarms = [
        np.histogram(bucket, thresholds, (0, thresholds - 1), weights=w)[0][::-1].cumsum()[::-1]
        for w in (y.astype(float) * weight, (1 - y.astype(float)) * weight)
    ]
    rows = [hits, alarms, alarms[0] - alarms, hits[0] - hits,
            hits / np.maximum(_TINY, hits + alarms), hits / np.maximum(_TINY, hits[0])]
    return pr_curve_raw(tag, rows, thresholds)


def pr_curve_raw(tag: str, rows: Iterable[Any], thresholds: int) -> Summary:
    """Return a curve that was computed elsewhere: true and false positives, true and false negatives, precision,
    recall."""
    data = np.stack([np.asarray(row, np.float32) for row in rows])
    return _one(tag, metadata=pr_curve_metadata.create_summary_metadata(None, None, thresholds), tensor=_listed(data))


def custom_scalars(layout: Mapping[str, Mapping[str, Sequence[Any]]]) -> Summary:
    """Return which charts show which numbers: {category: {chart: ["Multiline" or "Margin", tags]}}."""
    categories = []
    for category, charts in layout.items():
        made = []
        for title, (kind, tags) in charts.items():
            if kind == "Margin":
                value, lower, upper = tags
                series = layout_pb2.MarginChartContent.Series(value=value, lower=lower, upper=upper)
                made.append(layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series])))
            else:
                made.append(layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags)))
        categories.append(layout_pb2.Category(title=category, chart=made))
    message = layout_pb2.Layout(category=categories).SerializeToString()
    return _one(custom_scalar_metadata.CONFIG_SUMMARY_TAG, tensor=make_tensor_proto(message),
                metadata=custom_scalar_metadata.create_summary_metadata())


def hparams(
    values: Mapping[str, Any], metrics: Mapping[str, Any], domains: Mapping[str, Sequence[Any]] | None
) -> list[Summary]:
    """Return what an experiment is about, and the beginning and end of a run of it with these hyperparameters.

    Raises: TypeError for what is no dict, or for values in `domains` that are not of the hyperparameter's type;
    ValueError for a hyperparameter that is no number, string, truth value, or tensor of one element.
    """
    for given, what in ((values, "hparam_dict"), (metrics, "metric_dict")):
        if not isinstance(given, dict):
            raise TypeError(f"parameter: {what} should be a dictionary, nothing logged.")
    domains = domains or {}
    infos = []
    start = hparams_data.SessionStartInfo(start_time_secs=time.time())
    for name, value in values.items():
        if value is None:
            continue
        domain: Any = domains.get(name)
        if isinstance(value, (bool, np.bool_)):
            start.hparams[name].bool_value = bool(value)
            kind, held = api_pb2.DATA_TYPE_BOOL, bool
        elif isinstance(value, str):
            start.hparams[name].string_value = value
            kind, held = api_pb2.DATA_TYPE_STRING, str
        elif isinstance(value, (int, float, np.number, fanal.Tensor)):
            start.hparams[name].number_value = float(array_of(value).item())
            kind, held = api_pb2.DATA_TYPE_FLOAT64, (int, float)
        else:
            raise ValueError("value should be one of int, float, str, bool, or torch.Tensor")
        info = api_pb2.HParamInfo(name=name, type=kind)
        if domain is not None:
            if not isinstance(domain, list) or not all(isinstance(d, held) for d in domain):
                raise TypeError(f"parameter: hparam_domain_discrete[{name}] should be a list of same type as "
                                f"hparam_dict[{name}].")
            info.domain_discrete.extend(domain)
        infos.append(info)
    named = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in metrics]
    end = hparams_data.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
    return [
        _hparams(hparams_metadata.EXPERIMENT_TAG, experiment=api_pb2.Experiment(
            hparam_infos=infos, metric_infos=named)),
        _hparams(hparams_metadata.SESSION_START_INFO_TAG, session_start_info=start),
        _hparams(hparams_metadata.SESSION_END_INFO_TAG, session_end_info=end),
    ]


def _hparams(tag: str, **content: Any) -> Summary:
    data = hparams_data.HParamsPluginData(version=hparams_metadata.PLUGIN_DATA_VERSION, **content)
    return _one(tag, metadata=hparams_metadata.create_summary_metadata(data))
