from __future__ import annotations

import pytest
import torch

from vision_bench.diffusion.layout import check_tiled, conditional, over_rows


def test_rows_of_a_batch_with_guidance_are_its_images_again_and_again() -> None:
    assert over_rows([1.0, 2.0], 6).tolist() == [1, 2, 1, 2, 1, 2]
    assert over_rows([1.0, 2.0], 2).tolist() == [1, 2]


def test_conditional_rows_are_the_second_half() -> None:
    assert conditional(6, 3).tolist() == [False] * 3 + [True] * 3
    assert over_rows([1.0, 2.0], 4, "conditional").tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("rows", [3, 9])
def test_conditional_rows_need_two_sides(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows // 3} row.s. for each image.*write rows='both'"):
        over_rows([1.0, 2.0, 3.0], rows, "conditional")


def test_a_layout_is_read_off_the_latents() -> None:
    latents = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    latents[1, 0, 0, 0] = torch.nan  # as half precision may yield
    check_tiled(latents, 2)
    check_tiled(torch.cat([latents] * 3), 2)
    for batch, images in (
        (latents.repeat_interleave(2, 0), 2),  # consecutive
        (latents, 1),
        (torch.cat([latents] * 2), 3),
    ):
        with pytest.raises(ValueError, match=f"strengths: {images} were given"):
            check_tiled(batch, images)


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows='positive' is unknown: write 'both'"):
        over_rows([1.0], 1, "positive")
