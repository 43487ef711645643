"""SummaryWriter: what a training loop tells TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from fanal.utils.tensorboard import embedding, pictures, summary
from fanal.utils.tensorboard.summary import array_of

__all__ = ["FileWriter", "SummaryWriter"]


class FileWriter:
    """Write events into a file of a folder, on a thread of its own."""

    def __init__(
        self, log_dir: str | os.PathLike, max_queue: int = 10, flush_secs: float = 120, filename_suffix: str = ""
    ) -> None:
        self.event_writer = EventFileWriter(str(log_dir), max_queue, flush_secs, filename_suffix)

    def get_logdir(self) -> str:
        """Return the folder."""
        return self.event_writer.get_logdir()

    def add_event(self, event: Event, step: int | None = None, walltime: float | None = None) -> None:
        """Write an event."""
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self.event_writer.add_event(event)

    def add_summary(
        self, summary: Summary, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """Write a summary as an event."""
        self.add_event(Event(summary=summary), global_step, walltime)

    def flush(self) -> None:
        """Wait until all events are in the file."""
        self.event_writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self.event_writer.close()

    def reopen(self) -> None:
        """Write into a new file of the same folder after `close`."""
        self.event_writer.reopen()


class SummaryWriter:
    """Write numbers, histograms, images and texts of a run into `log_dir` for TensorBoard.

    log_dir: by default runs/<date>_<host><comment>. purge_step: the step at which a run that broke off goes on;
    TensorBoard hides what it wrote from there on. max_queue, flush_secs: after how many events, and how often, the
    file is written.

    Values are read where they are added, so the work recorded so far runs there. Tensors may require gradients.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: float = 120,
        filename_suffix: str = "",
    ) -> None:
        if not log_dir:
            now = datetime.now().strftime("%b%d_%H-%M-%S")
            log_dir = os.path.join("runs", f"{now}_{socket.gethostname()}{comment}")
        self.log_dir = log_dir
        self.purge_step = purge_step
        self.max_queue = max_queue
        self.flush_secs = flush_secs
        self.filename_suffix = filename_suffix
        self.file_writer: FileWriter | None = None
        self.all_writers: dict[str, FileWriter] | None = None
        self.default_bins = summary.default_edges()
        self._embeddings = ProjectorConfig()
        self._get_file_writer()

    def _get_file_writer(self) -> FileWriter:
        """Return the writer of this run's own file, a new one after `close`."""
        if self.all_writers is None or self.file_writer is None:
            self.file_writer = self._open(self.log_dir)
            self.all_writers = {self.file_writer.get_logdir(): self.file_writer}
            if self.purge_step is not None:
                step, self.purge_step = self.purge_step, None
                self.file_writer.add_event(Event(step=step, file_version="brain.Event:2"))
                self.file_writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
        return self.file_writer

    def _open(self, folder: str | os.PathLike) -> FileWriter:
        return FileWriter(folder, self.max_queue, self.flush_secs, self.filename_suffix)

    def get_logdir(self) -> str:
        """Return the folder of this run."""
        return str(self.log_dir)

    def _add(self, what: Summary, step: int | None, walltime: float | None) -> None:
        self._get_file_writer().add_summary(what, step, walltime)

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """Add a number."""
        self._add(summary.scalar(tag, scalar_value, new_style, double_precision), global_step, walltime)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Add several numbers to one chart; each has a folder, and so a run, of its own."""
        walltime = time.time() if walltime is None else walltime
        folder = self._get_file_writer().get_logdir()
        assert self.all_writers is not None
        for tag, value in tag_scalar_dict.items():
            own = f"{folder}/{main_tag.replace('/', '_')}_{tag}"
            if own not in self.all_writers:
                self.all_writers[own] = self._open(own)
            self.all_writers[own].add_summary(summary.scalar(main_tag, value, False, False), global_step, walltime)

    def add_tensor(
        self, tag: str, tensor: Any, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """Add all numbers of a tensor."""
        self._add(summary.tensor(tag, tensor), global_step, walltime)

    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: int | None = None,
        bins: Any = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> None:
        """Add how the values are distributed. bins: "tensorflow", or as numpy.histogram takes them."""
        if isinstance(bins, str) and bins == "tensorflow":
            bins = self.default_bins
        self._add(summary.histogram(tag, values, bins, max_bins), global_step, walltime)

    def add_histogram_raw(
        self,
        tag: str,
        min: float,
        max: float,
        num: float,
        sum: float,
        sum_squares: float,
        bucket_limits: Sequence[float],
        bucket_counts: Sequence[float],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Add a histogram that was counted elsewhere: the upper edge and the count of each bin."""
        if len(bucket_limits) != len(bucket_counts):
            raise ValueError("len(bucket_limits) != len(bucket_counts), see the document.")
        what = summary.histogram_raw(tag, min=min, max=max, num=num, sum=sum, sum_squares=sum_squares,
                                     bucket_limit=bucket_limits, bucket=bucket_counts)
        self._add(what, global_step, walltime)

    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        """Add an image, of bytes or of numbers in [0, 1]. dataformats: what its axes are. Needs pillow."""
        self._add(summary.image(tag, img_tensor, dataformats), global_step, walltime)

    def add_images(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:
        """Add a batch of images side by side. Needs pillow."""
        self._add(summary.image(tag, img_tensor, dataformats), global_step, walltime)

    def add_image_with_boxes(
        self,
        tag: str,
        img_tensor: Any,
        box_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        rescale: float = 1,
        dataformats: str = "CHW",
        labels: str | list[str] | None = None,
    ) -> None:
        """Add an image with boxes (N, 4), each left, top, right and bottom, drawn on it. Needs pillow."""
        labels = [labels] if isinstance(labels, str) else labels
        if labels is not None and len(labels) != len(box_tensor):
            labels = None
        what = summary.boxed_image(tag, img_tensor, box_tensor, dataformats, rescale, labels)
        self._add(what, global_step, walltime)

    def add_figure(
        self,
        tag: str,
        figure: Any,
        global_step: int | None = None,
        close: bool = True,
        walltime: float | None = None,
    ) -> None:
        """Add a figure of matplotlib, or a list of them, as an image. close: it is not needed any more."""
        if isinstance(figure, list):
            drawn = np.stack([pictures.figure_pixels(f, close) for f in figure])
            self.add_image(tag, drawn, global_step, walltime, dataformats="NCHW")
        else:
            self.add_image(tag, pictures.figure_pixels(figure, close), global_step, walltime, dataformats="CHW")

    def add_video(
        self,
        tag: str,
        vid_tensor: Any,
        global_step: int | None = None,
        fps: float = 4,
        walltime: float | None = None,
    ) -> None:
        """Add films (N, T, C, H, W) as an animated GIF. Needs pillow, where PyTorch needs moviepy."""
        self._add(summary.video(tag, vid_tensor, fps), global_step, walltime)

    def add_audio(
        self,
        tag: str,
        snd_tensor: Any,
        global_step: int | None = None,
        sample_rate: int = 44100,
        walltime: float | None = None,
    ) -> None:
        """Add a sound (L,) or (1, L) of samples in [-1, 1]."""
        self._add(summary.audio(tag, snd_tensor, sample_rate), global_step, walltime)

    def add_text(
        self, tag: str, text_string: str, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """Add a text, shown as Markdown."""
        self._add(summary.text(tag, text_string), global_step, walltime)

    def add_pr_curve(
        self,
        tag: str,
        labels: Any,
        predictions: Any,
        global_step: int | None = None,
        num_thresholds: int = 127,
        weights: Any = None,
        walltime: float | None = None,
    ) -> None:
        """Add the precision and recall of predictions in [0, 1] for labels that are 0 or 1, by threshold."""
        what = summary.pr_curve(tag, labels, predictions, min(num_thresholds, 127), weights)
        self._add(what, global_step, walltime)

    def add_pr_curve_raw(
        self,
        tag: str,
        true_positive_counts: Any,
        false_positive_counts: Any,
        true_negative_counts: Any,
        false_negative_counts: Any,
        precision: Any,
        recall: Any,
        global_step: int | None = None,
        num_thresholds: int = 127,
        weights: Any = None,
        walltime: float | None = None,
    ) -> None:
        """Add a precision and recall curve that was computed elsewhere."""
        rows = [true_positive_counts, false_positive_counts, true_negative_counts, false_negative_counts,
                precision, recall]
        self._add(summary.pr_curve_raw(tag, map(array_of, rows), min(num_thresholds, 127)), global_step, walltime)

    def add_custom_scalars(self, layout: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
        """Say which charts show which numbers: {category: {chart: ["Multiline" or "Margin", tags]}}."""
        self._add(summary.custom_scalars(layout), None, None)

    def add_custom_scalars_multilinechart(
        self, tags: Sequence[str], category: str = "default", title: str = "untitled"
    ) -> None:
        """Show several numbers in one chart."""
        self.add_custom_scalars({category: {title: ["Multiline", tags]}})

    def add_custom_scalars_marginchart(
        self, tags: Sequence[str], category: str = "default", title: str = "untitled"
    ) -> None:
        """Show a number between a lower and an upper one."""
        if len(tags) != 3:
            raise AssertionError(f"a margin chart has 3 tags: value, lower, upper; got {len(tags)}")
        self.add_custom_scalars({category: {title: ["Margin", tags]}})

    def add_hparams(
        self,
        hparam_dict: dict[str, Any],
        metric_dict: dict[str, Any],
        hparam_domain_discrete: dict[str, list[Any]] | None = None,
        run_name: str | None = None,
        global_step: int | None = None,
    ) -> None:
        """Add the hyperparameters of a run and the numbers to compare it by, in a folder of its own, `run_name`."""
        told = summary.hparams(hparam_dict, metric_dict, hparam_domain_discrete)
        folder = os.path.join(self._get_file_writer().get_logdir(), run_name or str(time.time()))
        with SummaryWriter(log_dir=folder) as own:
            for part in told:
                own._add(part, None, None)
            for name, value in metric_dict.items():
                own.add_scalar(name, value, global_step)

    def add_embedding(
        self,
        mat: Any,
        metadata: Sequence[Any] | None = None,
        label_img: Any = None,
        global_step: int | None = None,
        tag: str = "default",
        metadata_header: Sequence[str] | None = None,
    ) -> None:
        """Add points (N, D) for the projector, each with a label and a square picture if there are any.

        metadata: a label for each point, or a row of labels where `metadata_header` names the columns.
        label_img: (N, C, H, W), needs pillow.
        """
        points = array_of(mat)
        if points.ndim != 2:
            raise AssertionError("mat should be 2D, where mat.size(0) is the number of data points")
        if metadata is not None and len(metadata) != len(points):
            raise AssertionError("#labels should equal with #data points")
        images = None if label_img is None else array_of(label_img)
        if images is not None and len(images) != len(points):
            raise AssertionError("#images should equal with #data points")
        if images is not None and images.shape[2] != images.shape[3]:
            raise AssertionError("Image should be square, see tensorflow/tensorboard#670")
        run = Path(self._get_file_writer().get_logdir())
        name = f"{0 if global_step is None else global_step:05}/{tag}".replace("%", "%25").replace("\\", "%5C")
        folder = run / name
        folder.mkdir(parents=True, exist_ok=True)
        embedding.write_points(folder, points)
        if metadata is not None:
            embedding.write_labels(folder, metadata, metadata_header)
        if images is not None:
            embedding.write_sprite(folder, images)
        size = None if images is None else images.shape[2:]
        full = f"{tag}:{0 if global_step is None else global_step:05}"
        self._embeddings.embeddings.append(embedding.describe(full, name, metadata is not None, size))
        embedding.write_config(run, self._embeddings)

    def add_graph(
        self, model: Any, input_to_model: Any = None, verbose: bool = False, use_strict_trace: bool = True
    ) -> None:
        """Raise NotImplementedError: a model is the Python that runs, and there is no graph of it to show."""
        raise NotImplementedError(
            "SummaryWriter.add_graph: Fanal follows programs as they run and has no graph of a model to show; "
            "leave the call out. `fanal run` reports what each line of the script costs"
        )

    def add_onnx_graph(self, prototxt: str) -> None:
        """Raise NotImplementedError: ONNX files are not read."""
        raise NotImplementedError("SummaryWriter.add_onnx_graph: Fanal does not read ONNX files")

    def add_mesh(self, tag: str, vertices: Any, *args: Any, **kwargs: Any) -> None:
        """Raise NotImplementedError: meshes are not written."""
        raise NotImplementedError("SummaryWriter.add_mesh: meshes are not written by Fanal yet")

    def flush(self) -> None:
        """Wait until everything added is in the files."""
        for writer in (self.all_writers or {}).values():
            writer.flush()

    def close(self) -> None:
        """Write what is left and close the files. What is added later goes into new ones."""
        for writer in (self.all_writers or {}).values():
            writer.flush()
            writer.close()
        self.file_writer = self.all_writers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
