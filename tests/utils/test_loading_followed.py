"""What a dataset does with tensors, in another way for every sample, leaves the training step one known program."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch as peer

import fanal
from fanal.core.engine.ledger import ledger

random.seed(0)
WORDS = [[random.randrange(1, 9) for _ in range(random.randrange(1, 5))] for _ in range(400)]


def padded(torch):
    """Return a dataset of samples that are filled up to one length."""
    class Padded(torch.utils.data.Dataset):
        def __len__(self):
            return len(WORDS)

        def __getitem__(self, i):
            word = torch.tensor(WORDS[i])
            x, y = torch.zeros(6, dtype=torch.long), torch.zeros(6, dtype=torch.long)
            x[1:1 + len(word)] = word
            y[:len(word)] = word
            y[len(word) + 1:] = -1
            return x, y

    return Padded(), None


def ragged(torch):
    """Return a dataset of samples of many lengths, and what makes batches of them."""
    class Ragged(torch.utils.data.Dataset):
        def __len__(self):
            return len(WORDS)

        def __getitem__(self, i):
            return torch.tensor(WORDS[i]), torch.tensor(WORDS[i]) % 3

    def collate(samples):
        x = torch.zeros(len(samples), 6, dtype=torch.long)
        y = torch.full((len(samples), 6), -1)
        for i, (a, b) in enumerate(samples):
            x[i, :len(a)] = a
            y[i, :len(b)] = b
        return x, y

    return Ragged(), collate


def images(torch):
    """Return a dataset that shows a row of its data to NumPy, and makes a tensor of the copy that comes back."""
    numbers = np.random.RandomState(0)

    class Images(torch.utils.data.Dataset):
        data = torch.from_numpy(numbers.randint(1, 9, (400, 6)))
        targets = torch.from_numpy(numbers.randint(0, 9, (400, 6)))

        def __len__(self):
            return len(self.data)

        def __getitem__(self, i):
            image, target = self.data[i], int(self.targets[i, 0])
            image = np.array(image.numpy())[:, None].T
            x = torch.from_numpy(image).contiguous().clone().sub_(torch.as_tensor((1,))).clamp_(0, 7)[0]
            return x, torch.full((6,), target)

    return Images(), None


def train(torch, make, steps):
    dataset, collate = make(torch)
    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=collate)
    model = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Linear(8, 9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses, counts = [], []
    for (x, y), _ in zip(loader, range(steps)):
        before = ledger.recorded
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x).view(-1, 9), y.view(-1), ignore_index=-1)
        loss.backward()
        optimizer.step()
        counts.append(ledger.recorded - before)
        losses.append(loss.detach())
    return [x.item() for x in losses], counts


@pytest.mark.parametrize("make", [padded, ragged, images])
def test_a_step_on_samples_of_many_forms_is_followed(make):
    losses, counts = train(fanal, make, 40)
    assert losses == pytest.approx(train(peer, make, 40)[0], rel=1e-5)
    assert not any(counts[-20:]), counts


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("batch_size", [8, 200])
def test_all_of_loading_is_followed(grad, batch_size):
    loader = fanal.utils.data.DataLoader(images(fanal)[0], batch_size, shuffle=True)
    before, counts = ledger.recorded, []
    with fanal.set_grad_enabled(grad):
        for _ in range(2):
            for _ in loader:
                counts.append(ledger.recorded - before)
    assert counts[-1] == counts[len(counts) // 2 - 1] < 300, counts


def test_what_a_sample_writes_stands_in_the_data():
    def loaded(torch):
        class Worn(torch.utils.data.Dataset):
            data = torch.arange(12.0).reshape(4, 3)

            def __len__(self):
                return 4

            def __getitem__(self, i):
                row = self.data[i]
                row += 1
                return row, self.data[i, 1:], self.data[-1, 0]

        data = Worn()
        return [[x.tolist() for x in batch] for _ in range(2) for batch in torch.utils.data.DataLoader(data, 2)]

    assert loaded(fanal) == loaded(peer)


def test_samples_that_are_followed_stay_part_of_the_step():
    """However many calls a batch takes, also while they are recorded for the first time."""
    class Scaled(fanal.utils.data.Dataset):
        rows = [fanal.full((6,), float(k)) for k in range(320)]

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, i):
            return (self.rows[i] - 0.5) / 2 + 1

    weight = fanal.ones(6, requires_grad=True)
    counts = []
    for batch in fanal.utils.data.DataLoader(Scaled(), batch_size=32, shuffle=True):
        counts.append((ledger.flushes, ledger.recorded))
        (batch * weight).sum().backward()
        weight.grad.sum().item()
        weight.grad = None
    assert [b - a for (a, _), (b, _) in zip(counts[4:], counts[5:])] == [1] * 5
    assert counts[4][1] == counts[-1][1]
