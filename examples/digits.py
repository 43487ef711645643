"""Train a small convolutional network on handwritten digits, and draw what it learned.

    python examples/digits.py --epochs 30 --seed 0 --out out/digits.png

A quarter of the 1,797 images is held out and looked at once, at the very end. A tenth of the rest decides
which epoch's weights are kept.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset

DATA = Path(__file__).resolve().parent / "data" / "digits.npz"


class Digits(Dataset):
    """Images (1, 8, 8) in [0, 1] with their digits; when `augment`, each is moved by up to one pixel."""

    def __init__(self, images, labels, augment=False):
        self.images = images.astype(np.float32)[:, None] / 16  # (N, 1, 8, 8)
        self.padded = np.pad(self.images, ((0, 0), (0, 0), (1, 1), (1, 1)))  # (N, 1, 10, 10)
        self.labels = labels.astype(np.int64)  # (N,)
        self.augment = augment

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        y, x = (random.randint(0, 2), random.randint(0, 2)) if self.augment else (1, 1)
        image = self.padded[index, :, y : y + 8, x : x + 8].copy()
        return torch.from_numpy(image), self.labels[index]


class Net(nn.Module):
    """Three convolutions, then one linear layer: (B, 1, 8, 8) -> (B, 10)."""

    def __init__(self, width=32, classes=10, dropout=0.3):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, width, 4, 4)
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (B, 2 * width, 2, 2)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width * 2 * 2, classes)

    def forward(self, x):
        x = self.features(x)
        x = self.dropout(x.flatten(1))
        return self.head(x)


class Progress:
    """One line that rewrites itself in a terminal; elsewhere, one plain line for each epoch."""

    def __init__(self, total, out=sys.stderr):
        self.total, self.out, self.tty = total, out, out.isatty()
        self.start = self.shown = time.perf_counter()

    def update(self, step, note):
        now = time.perf_counter()
        if not self.tty or (now - self.shown < 0.05 and step < self.total):
            return
        self.shown = now
        rate = step / (now - self.start)
        full = round(24 * step / self.total)
        bar = "█" * full + "░" * (24 - full)
        left = (self.total - step) / rate
        line = f"{bar} {step}/{self.total}  {rate:5.0f} steps/s  {left:3.0f} s left  {note}"
        print(f"\r\033[K{line}", end="", file=self.out, flush=True)

    def line(self, text):
        print(f"\r\033[K{text}" if self.tty else text, file=self.out, flush=True)


@torch.no_grad()
def evaluate(model, loader, criterion):
    """Mean loss and accuracy of `model` over `loader`."""
    model.eval()
    loss, correct, seen = 0.0, 0, 0
    for images, labels in loader:
        logits = model(images)
        loss += criterion(logits, labels).item() * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum().item()
        seen += len(labels)
    return loss / seen, correct / seen


def train(model, train_loader, val_loader, criterion, epochs, lr, checkpoint):
    """Fit `model`, keep the weights with the lowest validation loss, return the losses of every step."""
    optimizer = AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    scheduler = CosineAnnealingLR(optimizer, T_max=epochs * len(train_loader))
    progress = Progress(total=epochs * len(train_loader))
    losses, val_losses, best, step = [], [], float("inf"), 0

    for epoch in range(1, epochs + 1):
        model.train()
        running, seen = 0.0, 0
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            scheduler.step()

            losses.append(loss.item())
            running += losses[-1] * len(labels)
            seen += len(labels)
            step += 1
            progress.update(step, f"epoch {epoch}/{epochs}  loss {running / seen:.4f}")

        val_loss, val_accuracy = evaluate(model, val_loader, criterion)
        val_losses.append((step, val_loss))
        kept = val_loss < best
        if kept:
            best = val_loss
            torch.save(model.state_dict(), checkpoint)
        progress.line(
            f"epoch {epoch:2d}/{epochs}  train {running / seen:.4f}  val {val_loss:.4f}"
            f"  accuracy {val_accuracy:6.2%}{'  saved' if kept else ''}"
        )
    return losses, val_losses


@torch.no_grad()
def predict(model, dataset):
    """The digit `model` sees in each image, and how sure it is of it: two arrays (N,)."""
    model.eval()
    sure, digit = [], []
    for images, _ in DataLoader(dataset, batch_size=256):
        confidence, guess = model(images).softmax(dim=1).max(dim=1)
        sure.append(confidence)
        digit.append(guess)
    return torch.cat(digit).numpy(), torch.cat(sure).numpy()


def draw(path, losses, val_losses, dataset, digit, sure, accuracy):
    """Draw the loss curve, and a grid of predictions with the mistakes and the least sure ones first."""
    rows, columns = 5, 10
    wrong = digit != dataset.labels
    shown = np.lexsort((sure, ~wrong))[: rows * columns]

    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(5, 7))

    axes = left.subplots()
    window = min(20, len(losses))
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(losses, color="0.8", linewidth=0.6, label="train, each step")
    axes.plot(np.arange(window - 1, len(losses)), smooth, label=f"train, mean of {window} steps")
    axes.plot(*zip(*val_losses, strict=True), "o-", markersize=3, label="validation")
    axes.set(xlabel="step", ylabel="cross-entropy, labels smoothed", title="Loss")
    axes.legend(frameon=False)

    right.suptitle(f"{accuracy:.2%} right on {len(dataset)} held-out images; mistakes and least sure first")
    for cell, index in zip(right.subplots(rows, columns).flat, shown, strict=True):
        cell.imshow(dataset.images[index, 0], cmap="gray_r", vmin=0, vmax=1)
        title = f"{digit[index]} not {dataset.labels[index]}" if wrong[index] else str(digit[index])
        cell.set_title(title, fontsize=8, color="tab:red" if wrong[index] else "black", pad=2)
        cell.set_axis_off()

    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/digits.png"), help="the picture to draw")
    args = parser.parse_args()

    random.seed(args.seed)
    torch.manual_seed(args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out.with_suffix(".pt")

    data = np.load(DATA)
    images, labels = data["images"], data["labels"]
    order = torch.randperm(len(labels)).numpy()
    held, val, fit = np.split(order, [len(order) // 4, len(order) // 4 + len(order) // 10])
    train_set = Digits(images[fit], labels[fit], augment=True)
    val_set = Digits(images[val], labels[val])
    test_set = Digits(images[held], labels[held])

    model = Net()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{len(train_set)} images to train on, {len(val_set)} to choose by, {len(test_set)} held out; "
        f"{parameters:,} parameters"
    )

    start = time.perf_counter()
    losses, val_losses = train(
        model,
        DataLoader(train_set, batch_size=args.batch_size, shuffle=True),
        DataLoader(val_set, batch_size=256),
        criterion,
        args.epochs,
        args.lr,
        checkpoint,
    )
    seconds = time.perf_counter() - start

    best = Net()
    best.load_state_dict(torch.load(checkpoint))
    _, accuracy = evaluate(best, DataLoader(test_set, batch_size=256), criterion)
    print(f"{accuracy:.2%} of the held-out images right, after {len(losses)} steps in {seconds:.1f} s")

    digit, sure = predict(best, test_set)
    draw(args.out, losses, val_losses, test_set, digit, sure, accuracy)
    print(f"drew {args.out}, kept the weights in {checkpoint}")


if __name__ == "__main__":
    main()
