"""An architecture whose norms have an axis of heads, in vLLM, against hooks written by hand."""

from __future__ import annotations

import pytest

from benchmarks import architectures


@pytest.mark.slow
def test_norms_of_queries_and_keys_are_moved_in_every_head():
    found = architectures.apart("qwen3")
    assert "refused" not in found, found
    assert found["sites"] == 11 and not architectures.is_off(found)
