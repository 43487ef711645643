"""SummaryWriter writes the events that PyTorch's writes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

peer = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
pytest.importorskip("PIL")

import fanal
from fanal.utils.tensorboard import SummaryWriter

X = np.random.RandomState(0)
VALUES, IMAGE, LABELS, SCORES = X.randn(200), X.rand(3, 8, 9), X.randint(0, 2, 50), X.rand(50)


def scalars(torch, w):
    w.add_scalar("loss", torch.tensor([1.5], requires_grad=True), 3)
    w.add_scalar("loss", 0.25, torch.tensor(4), walltime=12.0)
    w.add_scalar("new", np.float64(0.1), 5, new_style=True)
    w.add_scalar("double", torch.tensor(0.1), 5, new_style=True, double_precision=True)
    w.add_scalar("single", torch.tensor(0.1), 5, double_precision=True)
    w.add_scalar("no step", 1)
    w.add_scalars("both/of", {"train": torch.tensor(1.0), "test": 2.0}, 7)
    w.add_custom_scalars({"a": {"b": ["Multiline", ["x", "y"]], "c": ["Margin", ["x", "y", "z"]]}})
    for dtype in (torch.float32, torch.float64, torch.int32, torch.int64):
        w.add_tensor("numbers", torch.arange(6, dtype=dtype).reshape(2, 3), 1)


def histograms(torch, w):
    w.add_histogram("weights", torch.nn.Parameter(torch.from_numpy(VALUES)), 1)
    w.add_histogram("positive", np.abs(VALUES) + 1, 1)
    w.add_histogram("zero", torch.zeros(3), 1)
    w.add_histogram("ints", torch.arange(5), 1, bins="auto")
    w.add_histogram("few", VALUES, 1, max_bins=30)
    w.add_histogram_raw("raw", -1, 1, 3, 0.5, 2.5, [0, 1, 2], [1, 1, 1], 4)


def pictures(torch, w):
    image = torch.from_numpy(IMAGE)
    w.add_image("floats", image, 1)
    w.add_image("bytes", (image * 255).byte(), 1)
    w.add_image("gray", image[0], 1, dataformats="HW")
    w.add_image("one channel", image[:1], 1)
    w.add_image("upright", image.permute(1, 2, 0), 1, dataformats="HWC")
    w.add_images("batch", torch.stack([image[:1]] * 11), 1)
    w.add_image_with_boxes("boxes", torch.ones(3, 30, 40), torch.tensor([[3, 4, 20, 25], [0, 0, 9, 9]]), 1)


def texts(torch, w):
    w.add_text("note", "**Grüße**", 2)
    w.add_audio("tone", torch.sin(torch.arange(100.0)), 1, sample_rate=8000)
    w.add_pr_curve("pr", torch.from_numpy(LABELS), torch.from_numpy(SCORES), 0)
    w.add_pr_curve("weighted", LABELS, SCORES, 0, num_thresholds=11, weights=SCORES)
    rows = [np.arange(4) + k for k in range(6)]
    w.add_pr_curve_raw("raw", *rows, 2, num_thresholds=4)


def hyperparameters(torch, w):
    hparams = {"lr": 0.1, "layers": 3, "name": "sgd", "none": None, "t": torch.tensor([2.0])}
    w.add_hparams(hparams, {"acc": torch.tensor(0.5), "loss": 1.0}, {"name": ["sgd", "adam"]}, run_name="one")


def points(torch, w):
    x = torch.from_numpy(SCORES[:10]).reshape(5, 2)
    w.add_embedding(x, metadata=list("abcdé"), label_img=torch.from_numpy(IMAGE[:, :4, :4])[None].repeat(5, 1, 1, 1))
    w.add_embedding(x, [["a", 1]] * 5, global_step=12, tag="named", metadata_header=["letter", "number"])


def figures(torch, w):
    plt = pytest.importorskip("matplotlib.pyplot")
    for one in (True, False):
        made = [plt.figure(figsize=(2, 1)) for _ in range(2)]
        w.add_figure("drawn", made[0] if one else made, 1)
        for figure in made:
            plt.close(figure)


def again(torch, w):
    w.add_scalar("x", 1, 1)
    w.close()
    w.add_scalar("x", 2, 2)


def events(folder: Path) -> dict[str, list]:
    """Return the events of all files by folder, without what differs from run to run."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found: dict[str, list] = {}
    for file in sorted(folder.rglob("events.out.*")):
        of_file = []
        for data in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(data)
            event.wall_time = 0 if event.wall_time != 12 else 12
            event.ClearField("source_metadata")
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    part = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    for field, clock in (("session_start_info", "start"), ("session_end_info", "end")):
                        if part.HasField(field):
                            setattr(getattr(part, field), f"{clock}_time_secs", 0)
                    value.metadata.plugin_data.content = str(part).encode()
                if value.HasField("image"):
                    value.image.encoded_image_string = decoded(value.image.encoded_image_string)
            of_file.append(str(event))
        found.setdefault(str(file.parent.relative_to(folder)), []).append(of_file)
    return {run: sorted(files) for run, files in found.items()}


def decoded(png: bytes) -> bytes:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png))).tobytes()


def others(folder: Path) -> dict[str, object]:
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and "events.out" not in f.name]
    return {str(f.relative_to(folder)): decoded(f.read_bytes()) if f.suffix == ".png" else f.read_text() for f in files}


@pytest.mark.parametrize("tell", [scalars, histograms, pictures, texts, hyperparameters, points, figures, again])
def test_events_are_those_of_pytorch(tell, tmp_path):
    from torch.utils.tensorboard import SummaryWriter as Peer

    for torch, kind, name in ((fanal, SummaryWriter, "own"), (peer, Peer, "peer")):
        with kind(tmp_path / name, purge_step=3 if tell is scalars else None) as w:
            tell(torch, w)
    assert events(tmp_path / "own") == events(tmp_path / "peer")
    assert others(tmp_path / "own") == others(tmp_path / "peer")


def test_where_events_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SummaryWriter(comment="_lr1", filename_suffix=".x") as w:
        w.flush()
    (run,) = Path("runs").iterdir()
    assert run.name.endswith("_lr1") and w.get_logdir() == str(run)
    assert [f.suffix for f in run.iterdir()] == [".x"]


def test_what_cannot_be_told(tmp_path):
    with SummaryWriter(tmp_path) as w:
        with pytest.raises(NotImplementedError, match="has no graph"):
            w.add_graph(fanal.nn.Linear(2, 2), fanal.ones(1, 2))
        with pytest.raises(NotImplementedError, match="numpy array or torch tensor"):
            w.add_scalar("x", [1])
        with pytest.raises(AssertionError, match="one element"):
            w.add_scalar("x", fanal.ones(2))
        with pytest.raises(TypeError, match="hparam_dict should be a dictionary"):
            w.add_hparams([], {})
        with pytest.raises(AssertionError, match="square"):
            w.add_embedding(fanal.ones(2, 2), label_img=fanal.ones(2, 3, 4, 5))
        with pytest.raises(AssertionError, match="input tensor and input format"):
            w.add_image("x", fanal.ones(4, 4))


def test_a_truth_value_is_one(tmp_path):
    with SummaryWriter(tmp_path) as w:
        w.add_hparams({"nesterov": True}, {}, {"nesterov": [True, False]}, run_name="one")
    assert "bool_value: true" in "".join(events(tmp_path)["one"][0])


def test_without_tensorboard_the_import_says_what_to_install():
    code = "import sys; sys.modules['tensorboard'] = None; import fanal.utils.tensorboard"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install tensorboard" in out.stderr and "ImportError" in out.stderr
