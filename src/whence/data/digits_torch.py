"""The digits net as an ``nn.Module``; ``digits_keras.py`` is its twin, line by line."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DigitsNet", "build", "logits"]


class DigitsNet(nn.Module):
    """Two convolutions, a residual block, a last convolution, an average and a dense layer.

    Written as people write nets, not as tools like them: the ReLUs are function calls, the
    residual is a bare ``+``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.conv4 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(32)
        self.conv5 = nn.Conv2d(32, 64, 3, padding=1)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.dense = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (batch, 1, 8, 8) in 0..1 to logits (batch, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.pool(x)
        y = F.relu(self.bn3(self.conv3(x)))
        y = self.bn4(self.conv4(y))
        x = F.relu(x + y)
        x = F.relu(self.conv5(x))
        x = torch.flatten(self.average(x), 1)
        return self.dense(x)


def build(weights: Mapping[str, np.ndarray] | None, seed: int = 0) -> DigitsNet:
    """The net in evaluation mode; with ``weights`` None, random ones drawn from ``seed``.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsNet()
    if weights is not None:
        state = {name: torch.tensor(array) for name, array in weights.items()}
        # Only the counters of batches seen in training, which inference does not read, are absent.
        for name, buffer in model.named_buffers():
            if name.endswith("num_batches_tracked"):
                state[name] = buffer
        model.load_state_dict(state)
    return model.eval()


def logits(model: DigitsNet, images: np.ndarray) -> np.ndarray:
    """Images (image, 8, 8) in 0..1 to logits (image, 10)."""
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(images[:, None])))
