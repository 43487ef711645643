"""Every layer against PyTorch's: the same seed gives the same weights, outputs, gradients, names and repr."""

import warnings

import numpy as np
import pytest
import torch

import fanal
from fanal import nn


def floats(*shape, seed=0, low=-1.0, high=1.0):
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32)


def ints(high, *shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(0, high, shape)


def sequences(*lengths, width):
    return [floats(n, width, seed=n) for n in lengths]


# name, constructor arguments, inputs; options after that
CASES = [
    ("Identity", (), [floats(2, 3)]),
    ("Linear", (4, 3), [floats(2, 4)]),
    ("Linear", (4, 3, False), [floats(2, 5, 4)]),
    ("Bilinear", (3, 4, 2), [floats(5, 3), floats(5, 4)]),
    ("Conv1d", (4, 6, 3, 2, 1), [floats(2, 4, 9)]),
    ("Conv2d", (4, 6, 3, 1, 1, 1, 2), [floats(2, 4, 6, 7)]),
    ("Conv2d", (3, 4, (3, 2), (2, 1), (1, 0), 1, 1, False), [floats(3, 8, 8)]),
    (
        "Conv2d",
        dict(in_channels=2, out_channels=2, kernel_size=4, padding="same", dilation=2),
        [floats(1, 2, 9, 9)],
    ),
    (
        "Conv2d",
        dict(in_channels=2, out_channels=2, kernel_size=3, padding=1, padding_mode="reflect"),
        [floats(1, 2, 5, 5)],
    ),
    (
        "Conv2d",
        dict(in_channels=2, out_channels=2, kernel_size=3, padding=1, padding_mode="circular"),
        [floats(1, 2, 5, 5)],
    ),
    (
        "Conv2d",
        dict(in_channels=2, out_channels=2, kernel_size=3, padding=2, padding_mode="replicate"),
        [floats(1, 2, 5, 5)],
    ),
    ("Conv3d", (2, 3, 2, 2), [floats(1, 2, 4, 4, 4)]),
    ("ConvTranspose1d", (4, 2, 3, 2, 1, 1), [floats(2, 4, 5)]),
    ("ConvTranspose2d", (4, 6, 3, 2, 1, 1, 2), [floats(2, 4, 5, 4)]),
    ("ConvTranspose3d", (2, 3, 2, 2), [floats(1, 2, 3, 3, 3)]),
    ("BatchNorm1d", (4,), [floats(5, 4)]),
    ("BatchNorm1d", (4, 1e-3, None), [floats(5, 4, 3)]),
    ("BatchNorm2d", (3,), [floats(4, 3, 5, 5)]),
    ("BatchNorm2d", (3, 1e-5, 0.1, False, False), [floats(4, 3, 5, 5)]),
    ("BatchNorm3d", (2,), [floats(3, 2, 3, 3, 3)]),
    ("SyncBatchNorm", (3,), [floats(4, 3, 5)]),
    ("InstanceNorm1d", (3,), [floats(2, 3, 6)]),
    ("InstanceNorm2d", (3, 1e-5, 0.1, True, True), [floats(2, 3, 4, 4)]),
    ("InstanceNorm3d", (2,), [floats(2, 3, 3, 3)]),
    ("GroupNorm", (2, 6), [floats(3, 6, 4)]),
    ("LayerNorm", ((3, 4),), [floats(2, 3, 4)]),
    ("LayerNorm", (4, 1e-3, True, False), [floats(2, 3, 4)]),
    ("RMSNorm", (5,), [floats(2, 3, 5)]),
    ("LocalResponseNorm", (3,), [floats(2, 6, 4)]),
    ("Embedding", (10, 3, 0), [ints(10, 2, 4)]),
    ("Embedding", (10, 3), [ints(10, 5)]),
    ("EmbeddingBag", (10, 3), [ints(10, 2, 4)]),
    (
        "EmbeddingBag",
        dict(num_embeddings=10, embedding_dim=3, mode="sum"),
        [ints(10, 7), np.array([0, 2, 5])],
    ),
    ("MaxPool1d", (3, 2, 1), [floats(2, 3, 9)]),
    ("MaxPool2d", (2,), [floats(2, 3, 7, 6)]),
    (
        "MaxPool2d",
        dict(kernel_size=3, stride=2, padding=1, ceil_mode=True, return_indices=True),
        [floats(2, 3, 8, 8)],
    ),
    ("MaxPool3d", (2,), [floats(1, 2, 4, 4, 4)]),
    ("AvgPool1d", (3, 2, 1), [floats(2, 3, 9)]),
    ("AvgPool2d", (3, 2, 1, True, False), [floats(2, 3, 8, 8)]),
    ("AvgPool3d", (2,), [floats(1, 2, 4, 4, 4)]),
    ("LPPool1d", (2, 3), [floats(2, 3, 9)]),
    ("LPPool2d", (2, 2), [floats(2, 3, 6, 6)]),
    ("AdaptiveAvgPool1d", (4,), [floats(2, 3, 9)]),
    ("AdaptiveAvgPool2d", ((3, None),), [floats(2, 3, 7, 5)]),
    ("AdaptiveAvgPool3d", (2,), [floats(1, 2, 5, 4, 3)]),
    ("AdaptiveMaxPool1d", (4,), [floats(2, 3, 9)]),
    ("AdaptiveMaxPool2d", (3,), [floats(2, 3, 7, 5)]),
    ("AdaptiveMaxPool3d", (2,), [floats(1, 2, 5, 4, 3)]),
    *[
        (f"{kind}Pad{n}d", (1,), [floats(1, 2, *[4] * n)])
        for kind in ("Circular", "Reflection", "Replication", "Zero")
        for n in (1, 2, 3)
    ],
    *[(f"ConstantPad{n}d", (1, 2.5), [floats(1, 2, *[4] * n)]) for n in (1, 2, 3)],
    ("Flatten", (), [floats(2, 3, 4)]),
    ("Unflatten", (1, (2, 3)), [floats(2, 6)]),
    ("PixelShuffle", (2,), [floats(1, 8, 3, 3)]),
    ("PixelUnshuffle", (2,), [floats(1, 2, 4, 4)]),
    ("ChannelShuffle", (2,), [floats(1, 4, 3, 3)]),
    ("Upsample", dict(scale_factor=2), [floats(1, 2, 3, 3)]),
    ("Upsample", dict(size=(5, 4), mode="bilinear", align_corners=True), [floats(1, 2, 3, 3)]),
    ("UpsamplingNearest2d", dict(scale_factor=2), [floats(1, 2, 3, 3)]),
    ("UpsamplingBilinear2d", dict(scale_factor=2), [floats(1, 2, 3, 3)]),
    ("Fold", ((4, 5), 2), [floats(1, 8, 12)]),
    ("Unfold", (2,), [floats(1, 2, 4, 5)]),
    *[
        (name, (), [floats(3, 4, low=-4, high=4)])
        for name in (
            "ReLU",
            "ReLU6",
            "Hardtanh",
            "Sigmoid",
            "Hardsigmoid",
            "Tanh",
            "SiLU",
            "Mish",
            "Hardswish",
            "ELU",
            "CELU",
            "SELU",
            "GLU",
            "GELU",
            "Hardshrink",
            "LeakyReLU",
            "LogSigmoid",
            "Softplus",
            "Softshrink",
            "PReLU",
            "Softsign",
            "Tanhshrink",
        )
    ],
    ("GELU", ("tanh",), [floats(3, 4)]),
    ("PReLU", (4,), [floats(3, 4)]),
    ("Threshold", (0.1, 20.0), [floats(3, 4)]),
    ("Softmax", (1,), [floats(3, 4)]),
    ("Softmin", (1,), [floats(3, 4)]),
    ("LogSoftmax", (1,), [floats(3, 4)]),
    ("Softmax2d", (), [floats(2, 3, 4, 4)]),
    ("CosineSimilarity", (), [floats(3, 4), floats(3, 4, seed=1)]),
    ("PairwiseDistance", (), [floats(3, 4), floats(3, 4, seed=1)]),
    ("RNN", (3, 4), [floats(5, 2, 3)]),
    (
        "RNN",
        dict(input_size=3, hidden_size=4, num_layers=2, nonlinearity="relu", bidirectional=True),
        [floats(5, 2, 3), floats(4, 2, 4)],
    ),
    ("LSTM", (3, 4), [floats(5, 2, 3)]),
    (
        "LSTM",
        dict(input_size=3, hidden_size=4, num_layers=2, bidirectional=True, batch_first=True),
        [floats(2, 5, 3)],
    ),
    ("LSTM", dict(input_size=3, hidden_size=4, proj_size=2, bias=False), [floats(5, 3)]),
    ("GRU", (3, 4, 2), [floats(5, 2, 3)]),
    ("GRU", dict(input_size=3, hidden_size=4, bidirectional=True), [floats(5, 3)]),
    ("RNNCell", (3, 4), [floats(2, 3)]),
    ("LSTMCell", (3, 4), [floats(2, 3)]),
    ("GRUCell", (3, 4), [floats(2, 3), floats(2, 4)]),
    ("MultiheadAttention", (6, 2), [floats(5, 2, 6), floats(4, 2, 6), floats(4, 2, 6, seed=1)]),
    (
        "MultiheadAttention",
        dict(
            embed_dim=6, num_heads=3, kdim=4, vdim=5, batch_first=True, add_bias_kv=True, add_zero_attn=True
        ),
        [floats(2, 5, 6), floats(2, 3, 4), floats(2, 3, 5)],
    ),
    ("TransformerEncoderLayer", (6, 2, 8, 0.0), [floats(4, 2, 6)]),
    (
        "TransformerEncoderLayer",
        dict(
            d_model=6,
            nhead=2,
            dim_feedforward=8,
            dropout=0.0,
            activation="gelu",
            norm_first=True,
            batch_first=True,
            bias=False,
        ),
        [floats(2, 4, 6)],
    ),
    ("TransformerDecoderLayer", (6, 2, 8, 0.0), [floats(4, 2, 6), floats(5, 2, 6)]),
    ("Transformer", (6, 2, 1, 2, 8, 0.0), [floats(4, 2, 6), floats(5, 2, 6)]),
    ("L1Loss", (), [floats(3, 4), floats(3, 4, seed=1)]),
    ("MSELoss", dict(reduction="sum"), [floats(3, 4), floats(3, 4, seed=1)]),
    ("SmoothL1Loss", dict(beta=0.5), [floats(3, 4), floats(3, 4, seed=1)]),
    ("HuberLoss", dict(delta=0.5, reduction="none"), [floats(3, 4), floats(3, 4, seed=1)]),
    ("NLLLoss", (), [floats(5, 4), ints(4, 5)]),
    ("CrossEntropyLoss", (), [floats(5, 4), ints(4, 5)]),
    ("CrossEntropyLoss", dict(label_smoothing=0.1, ignore_index=2), [floats(5, 4, 3), ints(4, 5, 3)]),
    ("LinearCrossEntropyLoss", (6, 5), [floats(4, 6), ints(5, 4)]),
    ("PoissonNLLLoss", (), [floats(3, 4), floats(3, 4, seed=1, low=0)]),
    ("GaussianNLLLoss", (), [floats(3, 4), floats(3, 4, seed=1), floats(3, 4, seed=2, low=0.1)]),
    ("KLDivLoss", dict(reduction="batchmean"), [floats(3, 4), floats(3, 4, seed=1, low=0.1)]),
    ("BCELoss", (), [floats(3, 4, low=0.1, high=0.9), floats(3, 4, seed=1, low=0)]),
    ("BCEWithLogitsLoss", (), [floats(3, 4), floats(3, 4, seed=1, low=0)]),
    ("HingeEmbeddingLoss", (), [floats(3, 4), ints(2, 3, 4) * 2.0 - 1]),
    ("SoftMarginLoss", (), [floats(3, 4), ints(2, 3, 4) * 2.0 - 1]),
    ("MultiLabelMarginLoss", (), [floats(2, 4), np.array([[3, 0, -1, 1], [1, -1, 0, 0]])]),
    ("MultiLabelSoftMarginLoss", (), [floats(3, 4), floats(3, 4, seed=1, low=0)]),
    ("MultiMarginLoss", (), [floats(3, 4), ints(4, 3)]),
    ("CosineEmbeddingLoss", (), [floats(3, 4), floats(3, 4, seed=1), ints(2, 3) * 2 - 1]),
    ("MarginRankingLoss", (), [floats(3), floats(3, seed=1), ints(2, 3) * 2 - 1]),
    ("TripletMarginLoss", (), [floats(3, 4), floats(3, 4, seed=1), floats(3, 4, seed=2)]),
    ("TripletMarginWithDistanceLoss", (), [floats(3, 4), floats(3, 4, seed=1), floats(3, 4, seed=2)]),
    ("AdaptiveLogSoftmaxWithLoss", (8, 12, [3, 7]), [floats(6, 8), ints(12, 6)]),
]

RANDOM = [
    ("Dropout", (0.4,)),
    ("Dropout2d", ()),
    ("AlphaDropout", (0.2, True)),
    ("FeatureAlphaDropout", ()),
    ("RReLU", ()),
    ("FractionalMaxPool2d", dict(kernel_size=2, output_ratio=0.5)),
]


def build(t, module, name, args):
    t.manual_seed(7)
    made = getattr(module, name)
    return made(**args) if isinstance(args, dict) else made(*args)


def leaves(output):
    if isinstance(output, (list, tuple)):
        return [leaf for item in output for leaf in leaves(item)]
    return [] if output is None else [output]


def run(t, net, inputs):
    """Outputs, and the gradients of inputs and parameters for fixed cotangents."""
    given = [t.tensor(x, requires_grad=True) if x.dtype == np.float32 else t.tensor(x) for x in inputs]
    outputs = leaves(net(*given))
    total = None
    for i, y in enumerate(outputs):
        if y.is_floating_point() and y.requires_grad:
            weight = t.tensor(floats(*y.shape, seed=50 + i))
            total = (y * weight).sum() if total is None else total + (y * weight).sum()
    grads = {}
    if total is not None:
        total.backward()
        named = [*((f"input {i}", x) for i, x in enumerate(given)), *net.named_parameters()]
        grads = {n: np.array(x.grad.detach().tolist()) for n, x in named if x.grad is not None}
    return (
        [np.array(y.detach().tolist()) for y in outputs],
        grads,
        {n: b.tolist() for n, b in net.named_buffers()},
    )


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_layer(case):
    name, args, inputs = case
    ours, theirs = build(fanal, nn, name, args), build(torch, torch.nn, name, args)
    assert repr(ours) == repr(theirs)
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].tolist() == value.tolist(), f"initial {key}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (y, g, b), (y2, g2, b2) = run(fanal, ours, inputs), run(torch, theirs, inputs)
    assert len(y) == len(y2) and list(g) == list(g2) and list(b) == list(b2)
    for mine, other in zip(y, y2, strict=True):
        close(mine, other)
    for key in g2:
        close(g[key], g2[key])
    for key in b2:
        close(b[key], b2[key])


@pytest.mark.parametrize("name, args", RANDOM, ids=[c[0] for c in RANDOM])
def test_random_layer(name, args):
    ours, theirs = build(fanal, nn, name, args), build(torch, torch.nn, name, args)
    assert repr(ours) == repr(theirs)
    x = floats(2, 3, 8, 8)
    fanal.manual_seed(1)
    first = ours(fanal.tensor(x))
    fanal.manual_seed(1)
    assert first.tolist() == ours(fanal.tensor(x)).tolist()
    assert tuple(first.shape) == tuple(theirs(torch.tensor(x)).shape)
    if "Pool" not in name:
        close(ours.eval()(fanal.tensor(x)).tolist(), theirs.eval()(torch.tensor(x)).tolist())


@pytest.mark.parametrize("args", [(3,), (4, 0.1, 0.5, 2)])
def test_cross_map_normalisation_forward(args):
    # Only forward: PyTorch's backward is not the gradient of its forward.
    ours, theirs, x = nn.CrossMapLRN2d(*args), torch.nn.CrossMapLRN2d(*args), floats(2, 6, 4, 4)
    assert repr(ours) == repr(theirs)
    close(ours(fanal.tensor(x)).tolist(), theirs(torch.tensor(x)).tolist())


def test_dropout_between_layers_only_while_training():
    net = nn.LSTM(3, 4, 2, dropout=0.9)
    x = fanal.tensor(floats(5, 2, 3))
    assert net.eval()(x)[0].tolist() == net(x)[0].tolist()
    assert net.train()(x)[0].tolist() != net.eval()(x)[0].tolist()


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_sequences(name, enforce_sorted):
    lengths = (5, 3, 3, 1) if enforce_sorted else (3, 5, 1, 3)

    def go(t, module):
        net = build(t, module, name, dict(input_size=2, hidden_size=3, num_layers=2, bidirectional=True))
        given = [t.tensor(s, requires_grad=True) for s in sequences(*lengths, width=2)]
        packed = module.utils.rnn.pack_sequence(given, enforce_sorted=enforce_sorted)
        out, state = net(packed)
        padded, sizes = module.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=6)
        (padded.sum() + sum(s.sum() for s in leaves(state))).backward()
        values = [packed.batch_sizes, packed.data, padded, sizes, *leaves(state), *(x.grad for x in given)]
        return [v.detach().tolist() for v in values]

    for mine, other in zip(go(fanal, nn), go(torch, torch.nn), strict=True):
        close(np.array(mine), np.array(other))


def test_attention_masks():
    def go(t, module):
        net = build(t, module, "MultiheadAttention", dict(embed_dim=6, num_heads=2, batch_first=True))
        x = t.tensor(floats(2, 4, 6))
        hidden = t.tensor([[False, False, False, True], [False, False, True, True]])
        causal = module.Transformer.generate_square_subsequent_mask(4)
        yield net(x, x, x, key_padding_mask=hidden)
        yield net(x, x, x, attn_mask=causal, need_weights=False)
        yield net(x, x, x, attn_mask=causal < 0, average_attn_weights=False)
        encoder = build(t, module, "TransformerEncoderLayer", (6, 2, 8, 0.0))
        stack = module.TransformerEncoder(encoder, 2, module.LayerNorm(6))
        yield stack(x.transpose(0, 1), mask=causal, is_causal=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = list(zip(go(fanal, nn), go(torch, torch.nn), strict=True))
    for mine, other in pairs:
        for a, b in zip(leaves(mine), leaves(other), strict=True):
            close(a.detach().tolist(), b.detach().tolist())


INITIALISERS = [
    ("uniform_", dict(a=-2.0, b=3.0)),
    ("normal_", dict(mean=1.0, std=2.0)),
    ("constant_", dict(val=3.0)),
    ("ones_", {}),
    ("zeros_", {}),
    ("eye_", {}),
    ("xavier_uniform_", dict(gain=2.0)),
    ("xavier_normal_", {}),
    ("kaiming_uniform_", {}),
    ("kaiming_normal_", dict(mode="fan_out", nonlinearity="relu")),
    ("trunc_normal_", {}),
    ("trunc_normal_", dict(a=2.0, b=4.0)),
    ("trunc_normal_", dict(a=-0.5, b=0.5)),
    ("sparse_", dict(sparsity=0.3)),
]


@pytest.mark.parametrize("name, args", INITIALISERS, ids=[c[0] for c in INITIALISERS])
def test_initialiser_draws_the_same_numbers(name, args):
    def go(t, module):
        t.manual_seed(3)
        return getattr(module.init, name)(t.empty(20, 30), **args).tolist()

    ours, theirs = go(fanal, nn), go(torch, torch.nn)
    if name == "trunc_normal_":  # rejection compares logarithms, whose last bit is a library's own
        close(ours, theirs)
    else:
        assert ours == theirs


def test_orthogonal_and_dirac():
    q = nn.init.orthogonal_(fanal.empty(4, 6), gain=2.0)
    close((q @ q.t()).tolist(), (np.eye(4) * 4).tolist())
    ours, theirs = (
        nn.init.dirac_(fanal.empty(4, 2, 3, 3), 2),
        torch.nn.init.dirac_(torch.empty(4, 2, 3, 3), 2),
    )
    assert ours.tolist() == theirs.tolist()


def test_fused_normalisation():
    conv, bn = nn.Conv2d(2, 3, 3).eval(), nn.BatchNorm2d(3).eval()
    bn.running_mean.fill_(0.3)
    bn.running_var.fill_(2.0)
    x = fanal.tensor(floats(1, 2, 5, 5))
    fused = nn.utils.fuse_conv_bn_eval(conv, bn)
    np.testing.assert_allclose(fused(x).tolist(), bn(conv(x)).tolist(), rtol=1e-4, atol=1e-6)
