"""Arrays as pictures: images, grids of them, figures, boxes, films and sounds, encoded for TensorBoard."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["draw_boxes", "figure_pixels", "gif", "grid", "pixels", "png", "upright", "wav"]


def grid(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """Return images (N, C, H, W) side by side, row by row, as one (3, rows * H, columns * W)."""
    n, channels, height, width = images.shape
    if channels == 1:
        images = np.concatenate([images] * 3, 1)
    columns = min(n, columns)
    rows = -(-n // columns)
    out = np.zeros((3, height * rows, width * columns), images.dtype)
    for k, image in enumerate(images):
        y, x = k // columns * height, k % columns * width
        out[:, y : y + height, x : x + width] = image
    return out


def upright(array: np.ndarray, layout: str) -> np.ndarray:
    """Return an image, or a batch of them, as one (H, W, C). layout: what the axes are, as "NCHW", "HWC" or "HW"."""
    if len(set(layout)) != len(layout):
        raise AssertionError(
            f"You can not use the same dimension shordhand twice.         input_format: {layout}"
        )
    if len(layout) != array.ndim:
        raise AssertionError(
            f"size of input tensor and input format are different.         tensor shape: {array.shape}, "
            f"input_format: {layout}"
        )
    layout = layout.upper()
    if len(layout) == 4:
        return grid(array.transpose([layout.find(axis) for axis in "NCHW"])).transpose(1, 2, 0)
    if len(layout) == 3:
        image = array.transpose([layout.find(axis) for axis in "HWC"])
        return np.concatenate([image] * 3, 2) if image.shape[2] == 1 else image
    if len(layout) == 2:
        image = array.transpose([layout.find(axis) for axis in "HW"])
        return np.stack([image] * 3, 2)
    raise ValueError(f"an image has 2 to 4 axes, and '{layout}' has {len(layout)}")


def pixels(array: np.ndarray) -> np.ndarray:
    """Return 8-bit pixels: bytes as they are, other numbers from [0, 1]."""
    scale = 1 if array.dtype == np.uint8 else 255
    return (array.astype(np.float32) * scale).clip(0, 255).astype(np.uint8)


def png(image: np.ndarray, rescale: float = 1) -> tuple[int, int, int, bytes]:
    """Return height, width, channels and the PNG of 8-bit pixels (H, W, C)."""
    from PIL import Image

    height, width, channels = image.shape
    height, width = int(height * rescale), int(width * rescale)
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return height, width, channels, stream.getvalue()


def draw_boxes(image: np.ndarray, boxes: np.ndarray, labels: Sequence[str] | None) -> np.ndarray:
    """Return pixels (H, W, 3) with boxes (N, 4), given by their left, top, right and bottom, drawn in red."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for k, (left, top, right, bottom) in enumerate(boxes.tolist()):
        draw.line([(left, top), (left, bottom), (right, bottom), (right, top), (left, top)], width=2, fill="Red")
        if labels is not None:
            _, above, across, below = draw.textbbox((0, 0), labels[k])
            margin = int(np.ceil(0.05 * (below - above)))
            high = below - above + 2 * margin
            draw.rectangle([(left, bottom - high), (left + across, bottom)], fill="Red")
            draw.text((left + margin, bottom - high), labels[k], fill="Black")
    return np.array(picture)


def figure_pixels(figure: Any, close: bool) -> np.ndarray:
    """Return a figure of matplotlib as pixels (3, H, W)."""
    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[:, :, :3].transpose(2, 0, 1)
    if close:
        pyplot.close(figure)
    return image


def gif(frames: np.ndarray, fps: float) -> bytes:
    """Return the GIF of 8-bit frames (T, H, W, C)."""
    from PIL import Image

    first, *others = [Image.fromarray(frame[..., 0] if frame.shape[2] == 1 else frame) for frame in frames]
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0)
    return stream.getvalue()


def wav(sound: np.ndarray, rate: int) -> bytes:
    """Return the WAV file, 16 bits and one channel, of samples in [-1, 1]."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * np.iinfo(np.int16).max).astype("<i2").tobytes())
    return stream.getvalue()
