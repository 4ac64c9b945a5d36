"""Fits of a model on an accelerator that is pretended, against those of the model on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.transport.test_fit import fit

FITS = {
    "linear": {},
    "several batches, in threads": {"batch_size": 3},
    "gaussian of medians": {"method": "gaussian", "pooling": "median", "positions": "last"},
    "all tokens within quantiles": {"pooling": "all", "support": "q10_90"},
    "maxima within extremes": {"pooling": "max", "support": "minmax", "incremental": "atonce"},
    "minima, clipped": {"pooling": "min", "support": "clip", "incremental": "source"},
}


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_maps_are_those_of_the_cpu(options, tiny_llama, numbers, accelerator):  # noqa: F811
    wanted = fit(tiny_llama, numbers, **options).maps.maps
    found = fit(copy.deepcopy(tiny_llama).to("pretended"), numbers, **options).maps.maps
    assert list(found) == list(wanted)
    for site, one in found.items():
        for name in ("scale", "shift", "support_min", "support_max"):
            vector = getattr(one, name)
            assert vector.device.type == "cpu"
            torch.testing.assert_close(
                vector, getattr(wanted[site], name), atol=1e-3, rtol=1e-3, msg=f"{site} {name}"
            )
