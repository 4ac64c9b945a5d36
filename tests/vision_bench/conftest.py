"""Real logits for the vision tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """Logits [797, 10] and labels of scikit-learn's digits, by a logistic regression."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, labels = load_digits(return_X_y=True)
    images = images / 16
    model = LogisticRegression(C=10, max_iter=500).fit(images[:1000], labels[:1000])
    logits = model.decision_function(images[1000:])
    return torch.from_numpy(logits).float(), torch.from_numpy(labels[1000:]).long()
