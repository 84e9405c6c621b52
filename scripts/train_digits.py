"""Train the digits net that ships and write its weights: about a minute on one CPU core.

    python scripts/train_digits.py [FILE]

Seeded and on one thread, so that the same versions on the same machine write the same bytes.
The held-out images are used once, to print the accuracy, and choose nothing. FILE is by default
the shipped one, src/whence/data/digits.safetensors.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save

from whence.data import digits
from whence.data.digits import WEIGHTS
from whence.data.digits_torch import DigitsNet, logits

SEED, EPOCHS, BATCH, RATE, DECAY, SMOOTHING = 0, 30, 64, 5e-3, 1e-3, 0.05


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images (image, 1, 8, 8), each moved by -1, 0 or 1 pixels along both axes."""
    padded = F.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator)
    return torch.stack(
        [p[:, r : r + 8, c : c + 8] for p, (r, c) in zip(padded, moves.tolist(), strict=True)]
    )


def train(images: np.ndarray, labels: np.ndarray, epochs: int = EPOCHS) -> DigitsNet:
    """A net trained on images (image, 8, 8) and labels (image,), in evaluation mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = DigitsNet()
    x, y = torch.from_numpy(images[:, None]), torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            output = model(shifted(x[chosen], generator))
            loss = F.cross_entropy(output, y[chosen], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def main() -> None:
    """Train, report, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=WEIGHTS, help="where to write")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()
    model = train(*digits("train"), epochs=arguments.epochs)
    for split in ("train", "test"):
        images, labels = digits(split)
        right = logits(model, images).argmax(axis=1) == labels
        print(f"{split}: {right.sum()} of {len(labels)} right, {right.mean():.2%}")
    # The counters of batches seen say nothing about the net and are left out.
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("batches_tracked")}
    written = arguments.file.with_suffix(".part")
    written.write_bytes(save(state))
    written.replace(arguments.file)
    size, seconds = arguments.file.stat().st_size, time.perf_counter() - started
    print(f"{arguments.file}: {size / 1000:.0f} kB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
