from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import LuminaPipeline

from tests.vision_bench.diffusion.conftest import draw
from vision_bench.diffusion.layout import (
    PROMPTS_LAST,
    check_prompts_last,
    check_tiled,
    conditional,
    over_rows,
)
from vision_bench.diffusion.pipelines import denoiser_of


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


TRIED = {
    "pixart": "PixArtAlphaPipeline",
    "pixart_sigma": "PixArtSigmaPipeline",
    "sana": "SanaPipeline",
    "sd": "StableDiffusionPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sdxl": "StableDiffusionXLPipeline",
}


@pytest.mark.parametrize("name", TRIED)
def test_the_prompts_come_last_in_pipelines_that_are_taken(name, request) -> None:
    """The rows whose text does not change with the negative prompts are the prompts'."""
    pipe = request.getfixturevalue(name)
    texts: list[torch.Tensor] = []

    def note(_: Any, given: Any, named: dict[str, Any]) -> None:
        texts.append(named["encoder_hidden_states"])

    handle = denoiser_of(pipe)[1].register_forward_pre_hook(note, with_kwargs=True)
    try:
        for negative in ("red boot", "striped"):
            draw(
                pipe,
                ["a coat", "blue"],
                negative_prompt=[negative] * 2,
                guidance_scale=3.0,
            )
    finally:
        handle.remove()
    one, other = texts[0], texts[-1]
    assert [torch.equal(*rows) for rows in zip(one, other, strict=True)] == [False] * 2 + [True] * 2
    assert type(pipe).__name__ == TRIED[name]
    check_prompts_last(pipe)


def test_every_pipeline_that_is_taken_was_tried() -> None:
    assert set(TRIED.values()) == PROMPTS_LAST


def test_pipelines_of_an_unknown_order_are_refused(sd, pag) -> None:
    class Other(type(sd)):  # type: ignore[misc]
        def __call__(self) -> None: ...

    class Same(type(sd)):  # type: ignore[misc]
        pass

    mend = "give a guidance_scale that runs one row for each image"
    for kind in (LuminaPipeline, Other, type(pag)):
        with pytest.raises(
            ValueError, match=f"pipeline: {kind.__name__} runs several rows.*{mend}"
        ):
            check_prompts_last(object.__new__(kind))
    check_prompts_last(object.__new__(Same))
