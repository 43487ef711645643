"""Event files for TensorBoard, written by the `tensorboard` package: torch.utils.tensorboard."""

try:
    import tensorboard as _
except ImportError as error:
    raise ImportError(
        "torch.utils.tensorboard writes its files with the tensorboard package, which is not installed: "
        "pip install tensorboard"
    ) from error

from tensorboard.summary.writer.record_writer import RecordWriter

from fanal.utils.tensorboard.writer import FileWriter, SummaryWriter

__all__ = ["FileWriter", "RecordWriter", "SummaryWriter"]
