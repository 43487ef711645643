"""What TensorBoard's projector reads: points, their labels and pictures as files in the folder of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig

from fanal.utils.tensorboard import pictures

__all__ = ["describe", "write_config", "write_labels", "write_points", "write_sprite"]




def write_points(folder: Path, points: np.ndarray) -> None:
    """Write points (N, D), one a line."""
    folder.joinpath("tensors.tsv").write_text("".join("\t".join(map(str, p)) + "\n" for p in points.tolist()))


def write_labels(folder: Path, labels: Sequence[Any], header: Sequence[str] | None) -> None:
    """Write a label for each point, or several where there is a header."""
    if header:
        lines = ["\t".join(header), *("\t".join(map(str, row)) for row in labels)]
    else:
        lines = list(map(str, labels))
    folder.joinpath("metadata.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_sprite(folder: Path, images: np.ndarray) -> None:
    """Write images (N, C, H, W), H equal to W, into one picture of as many rows as columns."""
    side = int(np.ceil(len(images) ** 0.5))
    filled = np.zeros((side * side, *images.shape[1:]), images.dtype)
    filled[: len(images)] = images
    *_, encoded = pictures.png(pictures.pixels(pictures.grid(filled, side).transpose(1, 2, 0)))
    folder.joinpath("sprite.png").write_bytes(encoded)


def describe(tag: str, folder: str, labelled: bool, image_size: Sequence[int] | None) -> EmbeddingInfo:
    """Return the projector's entry of an embedding whose files are in `folder`. image_size: (H, W) of its pictures."""
    info = EmbeddingInfo(tensor_name=tag, tensor_path=f"{folder}/tensors.tsv")
    if labelled:
        info.metadata_path = f"{folder}/metadata.tsv"
    if image_size is not None:
        info.sprite.image_path = f"{folder}/sprite.png"
        info.sprite.single_image_dim.extend(reversed(image_size))
    return info


def write_config(run: Path, entries: ProjectorConfig) -> None:
    """Write which embeddings the projector has."""
    run.joinpath("projector_config.pbtxt").write_text(text_format.MessageToString(entries))
