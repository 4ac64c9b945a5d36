"""Loading a causal language model by its name."""

from __future__ import annotations

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from aim_plugins.engines.engine import ScoreRequest
from aim_plugins.engines.loading import load_engine
from aim_plugins.modulation.columns import Column


def test_a_model_that_sees_is_loaded_whole_and_answers_text(seeing_checkpoint):
    engine = load_engine(str(seeing_checkpoint), dtype="float32", device="cpu")
    request = ScoreRequest([1, 5, 9], [7, 8])
    (row,) = engine.score([request], [Column()], batch_size=1, progress=False)
    model = LlavaForConditionalGeneration.from_pretrained(seeing_checkpoint, dtype="float32").eval()
    with torch.no_grad():
        law = model(torch.tensor([[1, 5, 9, 7]])).logits[0].log_softmax(-1)
    assert row.log_likelihoods[0] == pytest.approx(float(law[2, 7] + law[3, 8]), abs=1e-5)
