"""The picture of accuracy against inherited defects, and attacked images."""

from __future__ import annotations

import io

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from aim_plugins.sweep.figures import BLUE, DPI, GREY, SIZE, STYLE, VERMILLION, render
from vision_bench.models.preprocessing import Preprocessing
from vision_bench.reengineering.defects.findings import Findings
from vision_bench.reengineering.defects.settings import (
    MAGNITUDE_MASKS,
    RANDOM_MASKS,
    REGROWN,
    RETRAIN,
    SEAM,
    STANDARD,
)

# Okabe and Ito's palette, as in all pictures; every arm looks the same in every report.
_MARKS = {
    STANDARD: (VERMILLION, "o"),
    SEAM: (BLUE, "D"),
    MAGNITUDE_MASKS: ("#E69F00", "^"),
    RANDOM_MASKS: ("#009E73", "v"),
    RETRAIN: (GREY, "s"),
    REGROWN: ("#CC79A7", "P"),
}

_SIDE = 140
"""Longest side of a shown image, in pixels."""


def draw_inheritance(findings: Findings) -> dict[str, bytes]:
    """Accuracy against DIR, a point for each arm; returns the content of its files by suffix."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for name, one in findings.arms.items():
            across, up = one.answers.inheritance_rate, one.answers.accuracy
            axes.errorbar(
                [100 * across.value],
                [100 * up.value],
                xerr=[[100 * (across.value - across.low)], [100 * (across.high - across.value)]],
                yerr=[[100 * (up.value - up.low)], [100 * (up.high - up.value)]],
                fmt=_MARKS[name][1],
                color=_MARKS[name][0],
                markersize=11 if name == STANDARD else 6,
                # Open, so that it shows around an arm that is as good, and is seen behind none.
                markerfacecolor="none" if name == STANDARD else _MARKS[name][0],
                markeredgewidth=1.8 if name == STANDARD else 1,
                zorder=3 if name == STANDARD else 2,
                elinewidth=1,
                label=name,
            )
        axes.set_xlim(left=0)
        axes.set_xlabel("defect inheritance rate, % (less is better)")
        axes.set_ylabel("accuracy, %")
        figure.legend(loc="outside upper left", ncols=len(findings.arms))
        return render(figure)


def picture_of(image: Float[Tensor, "3 height width"], preprocessing: Preprocessing) -> bytes:
    """A PNG of a normalised image; small ones are enlarged by whole pixels."""
    mean, std = (
        torch.tensor(one)[:, None, None] for one in (preprocessing.mean, preprocessing.std)
    )
    pixels = (image.cpu() * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = _SIDE // max(picture.size)
    if scale > 1:
        size = (picture.width * scale, picture.height * scale)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    else:
        picture.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()
