"""`fanal.utils.data` against torch: the same scenario runs in both, and must tell the same story."""

import collections
import random
import warnings

import numpy as np
import pytest

import fanal

torch = pytest.importorskip("torch")


def plain(value):
    """Tensors as (dtype, shape, numbers), containers walked through with their types kept."""
    if isinstance(value, (fanal.Tensor, torch.Tensor)):
        return str(value.dtype).rpartition(".")[2], tuple(value.shape), value.tolist()
    if isinstance(value, dict):
        return type(value).__name__, {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, collections.UserList)):
        return type(value).__name__, [plain(part) for part in value]
    return value


def outcome(scenario, lib, seed=0):
    """What `scenario` gives in `lib`: its value, or the class of its error; and the next random number."""
    lib.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = plain(scenario(lib, lib.utils.data))
        except Exception as error:
            result = type(error)
    return result, lib.randint(1 << 30, (2,)).tolist(), random.random(), np.random.rand()


def assert_same(scenario, raises=False):
    for seed in (0, 7):
        ours, theirs = outcome(scenario, fanal, seed), outcome(scenario, torch, seed)
        assert ours == theirs
        assert raises == (isinstance(theirs[0], type) and issubclass(theirs[0], Exception))


def rows(lib, n=23):
    x = lib.arange(n * 6, dtype=lib.float32).reshape(n, 2, 3)
    return lib.utils.data.TensorDataset(x, lib.arange(n) % 5)


def epochs(loader, n=3):
    return [list(loader) for _ in range(n)]



# Order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 4},
        {"batch_size": 4, "drop_last": True},
        {"batch_size": 4, "shuffle": True},
        {"batch_size": 23, "shuffle": True, "drop_last": True},
        {"batch_size": 64, "shuffle": True},
        {"batch_size": None},
        {"batch_size": None, "shuffle": True},
    ],
    ids=str,
)
def test_shuffles_of_several_epochs_are_torchs(options):
    assert_same(lambda lib, data: epochs(data.DataLoader(rows(lib), **options)))


def test_a_generator_of_ones_own_is_drawn_from_as_in_torch():
    def scenario(lib, data):
        generator = lib.Generator()
        generator.manual_seed(42)
        loader = data.DataLoader(rows(lib), batch_size=5, shuffle=True, generator=generator)
        return epochs(loader), lib.randint(1 << 30, (3,), generator=generator)

    assert_same(scenario)


def test_iterators_interleaved_with_draws_of_the_training_loop():
    def scenario(lib, data):
        loader = data.DataLoader(rows(lib), batch_size=8, shuffle=True)
        seen = []
        for _ in range(2):
            for batch, other in zip(loader, loader, strict=True):
                seen.append((batch, other, lib.rand(2)))
        return seen

    assert_same(scenario)


@pytest.mark.parametrize("n", [1, 5, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("replacement", [False, True])
def test_random_sampler(n, replacement):
    def scenario(lib, data):
        sampler = data.RandomSampler(range(10), replacement=replacement, num_samples=n)
        return [list(sampler), list(sampler), len(sampler)]

    assert_same(scenario)


def test_samplers():
    def scenario(lib, data):
        weights = [0.1, 0.9, 0.4, 0.7, 3.0, 0.6]
        return [
            list(data.SequentialSampler("abcd")),
            list(data.SubsetRandomSampler([10, 20, 30, 40])),
            list(data.BatchSampler(data.SequentialSampler(range(10)), 3, False)),
            list(data.BatchSampler(data.SequentialSampler(range(10)), 3, True)),
            list(data.BatchSampler(iter(range(7)), 7, True)),
            len(data.BatchSampler(range(10), 3, False)),
            len(data.BatchSampler(range(10), 3, True)),
            list(data.WeightedRandomSampler(weights, 5, replacement=True)),
            list(data.WeightedRandomSampler(weights, 5, replacement=False)),
            len(data.WeightedRandomSampler(weights, 5)),
        ]

    assert_same(scenario)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n", [1, 3, 10, 12])
@pytest.mark.parametrize("shuffle", [False, True])
def test_distributed_sampler(n, drop_last, shuffle):
    def scenario(lib, data):
        shares = []
        for rank in range(4):
            sampler = data.DistributedSampler(range(n), 4, rank, shuffle, 3, drop_last)
            sampler.set_epoch(2)
            shares.append((list(sampler), len(sampler)))
        return shares

    assert_same(scenario)


@pytest.mark.parametrize("lengths", [[3, 7, 13], [0.5, 0.25, 0.25], [0.3, 0.3, 0.4], [23, 0], [0.99, 0.01]])
def test_random_split(lengths):
    def scenario(lib, data):
        generator = lib.Generator()
        generator.manual_seed(5)
        one = data.random_split(range(23), lengths, generator=generator)
        two = data.random_split(rows(lib), lengths)
        shuffled = data.DataLoader(two[0], batch_size=4, shuffle=True)
        return [list(part) for part in one], [part.indices for part in two], epochs(shuffled, 2)

    assert_same(scenario)


# Datasets ---------------------------------------------------------------------------------------------


def test_joined_datasets():
    def scenario(lib, data):
        a, b = rows(lib, 5), rows(lib, 3)
        joined = a + b
        pairs = data.StackDataset(a, data.Subset(a, [4, 3, 2, 1, 0]))
        named = data.StackDataset(x=a, y=range(5))
        return [
            len(joined), [joined[i] for i in (0, 4, 5, -1, -8)], joined.cumulative_sizes,
            len(pairs), pairs[1], pairs.__getitems__([0, 2]), named[3], named.__getitems__([1, 1]),
            epochs(data.DataLoader(pairs, batch_size=2), 1), epochs(data.DataLoader(named, batch_size=3), 1),
            data.Subset(a, [1, 3])[[0, 1]],
        ]  # fmt: skip

    assert_same(scenario)


def stream(data, n, length=None):
    class Stream(data.IterableDataset):
        def __iter__(self):
            return iter(range(n))

    if length is not None:
        Stream.__len__ = lambda self: length
    return Stream()


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"batch_size": 3, "drop_last": True},
                                     {"batch_size": None}], ids=str)  # fmt: skip
def test_streams(options):
    def scenario(lib, data):
        chained = stream(data, 4, 4) + stream(data, 3, 3)
        loader = data.DataLoader(chained, **options)
        return len(chained), len(loader), epochs(loader, 2)

    assert_same(scenario)


def test_a_stream_longer_than_it_says_warns():
    loader = fanal.utils.data.DataLoader(stream(fanal.utils.data, 3, 2), batch_size=None)
    assert len(loader) == 2
    with pytest.warns(UserWarning, match="was reported to be 2"):
        assert list(loader) == [0, 1, 2]


# Collation --------------------------------------------------------------------------------------------

Point = collections.namedtuple("Point", "x y")


class Shelf(dict):
    """A mapping that cannot be made from items, and holds more than them."""

    def __init__(self, label):
        self.label = label


@pytest.mark.parametrize(
    "make",
    [
        lambda lib: [lib.ones(2), lib.zeros(2)],
        lambda lib: [np.ones((2, 1), np.float32), np.zeros((2, 1), np.float32)],
        lambda lib: [np.ones(2, np.int16), np.zeros(2, np.int16)],
        lambda lib: [np.ones(2, np.float32), np.zeros(2, np.float64)],
        lambda lib: [np.float32(1), np.float32(2)],
        lambda lib: [np.int8(1), np.int8(2)],
        lambda lib: [np.bool_(True), np.bool_(False)],
        lambda lib: [np.array(1.5), np.array(2.5)],
        lambda lib: [1, 2],
        lambda lib: [1.0, 2.5],
        lambda lib: [True, False],
        lambda lib: ["a", "b"],
        lambda lib: [b"a", b"b"],
        lambda lib: [{"a": 1, "b": [2, 3]}, {"a": 4, "b": [5, 6]}],
        lambda lib: [Point(1, 2.0), Point(3, 4.0)],
        lambda lib: [(1, "a"), (2, "b")],
        lambda lib: [[1, (2.0, lib.ones(1))], [3, (4.0, lib.ones(1))]],
        lambda lib: [collections.UserList([1, 2]), collections.UserList([3, 4])],
        lambda lib: [range(3), range(3)],
    ],
)
def test_default_collate_and_convert(make):
    assert_same(lambda lib, data: data.default_collate(make(lib)))
    assert_same(lambda lib, data: data.default_convert(make(lib)))


@pytest.mark.parametrize(
    "make",
    [
        lambda lib: [[1, 2], [3]],
        lambda lib: [np.array(["a"]), np.array(["b"])],
        lambda lib: [object(), object()],
        lambda lib: [None, None],
        lambda lib: [lib.ones(2), lib.ones(3)],
        lambda lib: [np.ones(2), np.ones(3)],
        lambda lib: [],
    ],
)
def test_what_default_collate_cannot_join(make):
    assert_same(lambda lib, data: data.default_collate(make(lib)), raises=True)


def test_collate_keeps_what_a_mapping_holds_besides_its_items():
    samples = []
    for i in range(2):
        shelf = Shelf("top")
        shelf["book"] = i
        samples.append(shelf)
    batch = fanal.utils.data.default_collate(samples)
    assert type(batch) is Shelf and batch.label == "top" and batch["book"].tolist() == [0, 1]
    assert samples[0]["book"] == 0


@pytest.mark.parametrize("turned", [lambda x: x.permute(2, 0, 1), lambda x: x[1].t(), lambda x: x.permute(2, 0, 1) * 1],
                         ids=["image", "row", "computed"])
def test_turned_samples_are_joined_in_order(turned):
    """As images are, from (H, W, C) to (C, H, W). What is computed of the batch shows its memory; its text does not."""
    def scenario(lib, data):
        r = np.random.default_rng(0)
        samples = [turned(lib.tensor(r.integers(-9, 9, (4, 5, 3)).astype(np.float32))) for _ in range(3)]
        for s in samples:
            float(s.sum())
        batch = data.default_collate(samples)
        weights = lib.arange(float(batch.numel())).reshape(batch.shape)
        return batch.stride(), (batch * weights).flatten(1).sum(1).tolist(), batch
    assert_same(scenario)


def test_a_user_s_collate_fn_gets_the_samples():
    def scenario(lib, data):
        loader = data.DataLoader(rows(lib, 5), batch_size=2, collate_fn=lambda samples: len(samples))
        return epochs(loader, 1), epochs(data.DataLoader([3, 1, 2], batch_size=None), 1)

    assert_same(scenario)


def test_rows_gathered_at_once_are_rows_stacked():
    class Slow(fanal.utils.data.TensorDataset):
        """A subclass takes the path of single samples."""

    fast = rows(fanal)
    slow = Slow(*fast.tensors)
    for keys in ([0], [3, 3, 22], [-1, 0], list(range(23))):
        loader = fanal.utils.data.DataLoader(fast, batch_sampler=[keys])
        expected = fanal.utils.data.DataLoader(slow, batch_sampler=[keys])
        assert plain(list(loader)) == plain(list(expected))
    for keys in ([23], [-24], []):
        assert_same(
            lambda lib, data, keys=keys: list(data.DataLoader(rows(lib), batch_sampler=[keys])), raises=True
        )


# Workers ----------------------------------------------------------------------------------------------


def noisy(data, lib, n=11):
    class Noisy(data.Dataset):
        def __len__(self):
            return n

        def __getitem__(self, index):
            info = data.get_worker_info()
            return (
                index, random.random(), np.random.rand(), lib.rand(2),
                info.id, info.num_workers, info.seed % 1000,
            )  # fmt: skip

    return Noisy()


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_draw_torchs_numbers_in_torchs_order(persistent):
    def scenario(lib, data):
        loader = data.DataLoader(
            noisy(data, lib), batch_size=2, shuffle=True, num_workers=2, persistent_workers=persistent
        )
        return epochs(loader, 2)

    assert_same(scenario)


def test_workers_share_out_a_stream_as_in_torch():
    def scenario(lib, data):
        class Span(data.IterableDataset):
            def __init__(self):
                self.start, self.stop = 3, 14

            def __iter__(self):
                return iter(range(self.start, self.stop))

        def share(worker):
            info = data.get_worker_info()
            span = info.dataset
            size = -(-(span.stop - span.start) // info.num_workers)
            start = span.start + worker * size
            span.start, span.stop = start, min(start + size, span.stop)

        loader = data.DataLoader(Span(), batch_size=2, num_workers=3, worker_init_fn=share)
        return epochs(loader, 2), epochs(data.DataLoader(Span(), num_workers=2), 1)

    assert_same(scenario)


def test_workers_warn_once_and_leave_no_trace(monkeypatch):
    from fanal.utils.data import dataloader

    monkeypatch.setattr(dataloader._WorkersDataLoaderIter, "_warned", False)
    loader = fanal.utils.data.DataLoader(range(4), num_workers=2)
    with pytest.warns(UserWarning, match="num_workers=2: Fanal loads in the calling process"):
        list(loader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(loader)
    assert fanal.utils.data.get_worker_info() is None


def test_an_error_in_a_worker_is_raised_as_it_is(monkeypatch):
    from fanal.utils.data import dataloader

    monkeypatch.setattr(dataloader._WorkersDataLoaderIter, "_warned", True)

    class Broken(fanal.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise KeyError("no such picture")

    with pytest.raises(KeyError, match="no such picture"):
        next(iter(fanal.utils.data.DataLoader(Broken(), num_workers=1)))
    assert fanal.utils.data.get_worker_info() is None


# What bad input gets ----------------------------------------------------------------------------------

BAD_LOADERS = [
    {"num_workers": -1},
    {"timeout": -1},
    {"prefetch_factor": 2},
    {"num_workers": 1, "prefetch_factor": -1},
    {"persistent_workers": True},
    {"multiprocessing_context": "fork"},
    {"num_workers": 1, "multiprocessing_context": "teleport"},
    {"num_workers": 1, "multiprocessing_context": 3},
    {"batch_size": 0},
    {"batch_size": 2.5},
    {"batch_size": None, "drop_last": True},
    {"shuffle": True, "sampler": [0, 1]},
    {"batch_sampler": [[0]], "batch_size": 2},
    {"batch_sampler": [[0]], "drop_last": True},
    {"drop_last": "yes"},
]


@pytest.mark.parametrize("options", BAD_LOADERS, ids=str)
def test_bad_options_of_a_loader(options):
    messages = []
    for lib in (fanal, torch):
        with pytest.raises((ValueError, TypeError)) as caught:
            lib.utils.data.DataLoader(rows(lib), **options)
        messages.append((caught.type, str(caught.value)[:30]))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("options", [{"shuffle": True}, {"sampler": [0]}, {"batch_sampler": [[0]]}], ids=str)
def test_a_stream_has_no_order_to_choose(options):
    for lib in (fanal, torch):
        with pytest.raises(ValueError, match="DataLoader with IterableDataset: expected unspecified"):
            lib.utils.data.DataLoader(stream(lib.utils.data, 3), **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda lib, data: data.TensorDataset(lib.ones(2), lib.ones(3)),
        lambda lib, data: data.StackDataset(),
        lambda lib, data: data.StackDataset([1], x=[1]),
        lambda lib, data: data.StackDataset([1], [1, 2]),
        lambda lib, data: data.ConcatDataset([]),
        lambda lib, data: data.ConcatDataset([stream(data, 1)]),
        lambda lib, data: list(data.ChainDataset([[1]])),
        lambda lib, data: data.ConcatDataset([[1, 2]])[-3],
        lambda lib, data: data.Dataset()[0],
        lambda lib, data: type("Half", (data.Subset,), {"__getitem__": lambda self, i: i})([1], [0]),
        lambda lib, data: data.random_split(range(5), [2, 2]),
        lambda lib, data: data.random_split(range(5), [1.5, -0.5]),
        lambda lib, data: data.RandomSampler([]),
        lambda lib, data: data.RandomSampler([1], replacement=1),
        lambda lib, data: data.RandomSampler([1], num_samples=0),
        lambda lib, data: data.WeightedRandomSampler([1.0], 0),
        lambda lib, data: data.WeightedRandomSampler([1.0], True),
        lambda lib, data: data.WeightedRandomSampler([1.0], 1, replacement=0),
        lambda lib, data: data.WeightedRandomSampler([[1.0]], 1),
        lambda lib, data: data.BatchSampler([1], True, False),
        lambda lib, data: data.DistributedSampler([1], 2, 2),
        lambda lib, data: list(data.DataLoader([1], timeout=1)),
        lambda lib, data: len(data.DataLoader(stream(data, 3))),
        lambda lib, data: setattr(data.DataLoader([1]), "batch_size", 2),
        lambda lib, data: iter(data.DataLoader([1])).__getstate__(),
    ],
)
def test_bad_input_raises_torchs_class(make):
    assert_same(make, raises=True)


def test_pin_memory_without_an_accelerator_warns():
    with pytest.warns(UserWarning, match="no accelerator is found"):
        list(fanal.utils.data.DataLoader(range(2), pin_memory=True))
