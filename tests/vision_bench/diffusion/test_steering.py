from __future__ import annotations

import contextlib
import copy
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline, StableDiffusionPipeline

from aim_plugins.modulation.activations import AffineMap
from aim_plugins.modulation.sites import split_site
from tests.vision_bench.diffusion.conftest import draw, lies_first, random_maps
from vision_bench.diffusion import steering
from vision_bench.diffusion.layout import images_counted
from vision_bench.diffusion.pipelines import as_module
from vision_bench.diffusion.steering import ImageMaps

PROMPTS = ["a red coat", "a blue boot", "striped coat with boot"]
STRENGTHS = [0.0, 0.5, 1.0]
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "guidance in a batch": ("sd", {}),
    "guidance in a batch, SDXL": ("sdxl", {}),
    "no guidance": ("sdxl", {"guidance_scale": 0.0}),
    "distilled guidance": ("flux", {}),
    "two calls a step": ("flux", {"true_cfg_scale": 3.0, "negative_prompt": "a"}),
    "streams": ("sd3", {}),
    "blocks": ("pixart", {}),
    "blocks, Sana": ("sana", {}),
}


@dataclasses.dataclass
class Case:
    """A pipeline that lays out its batch in one way, and maps of it."""

    pipe: DiffusionPipeline
    maps: dict[str, AffineMap]
    arguments: dict[str, Any]
    kept: dict[tuple[float, ...], torch.Tensor] = dataclasses.field(default_factory=dict)

    def mixed(self, strengths: Sequence[float] = STRENGTHS) -> torch.Tensor:
        """What `steered` gives, computed once."""
        if tuple(strengths) not in self.kept:
            self.kept[tuple(strengths)] = self.steered(strengths)
        return self.kept[tuple(strengths)]

    def steered(
        self, strengths: Sequence[float], prompts: Sequence[str] = PROMPTS, **more: Any
    ) -> torch.Tensor:
        with ImageMaps(timeless(self.maps)).applied(self.pipe, strengths):
            return self.draw(prompts, **more)

    def draw(self, prompts: Sequence[str] = PROMPTS, **more: Any) -> torch.Tensor:
        arguments = dict(self.arguments)
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(prompts)
        return draw(self.pipe, prompts, **{**arguments, **more})


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {}


@pytest.fixture(params=LAYOUTS)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    name, arguments = LAYOUTS[request.param]
    if request.param not in cases:
        pipe = request.getfixturevalue(name)
        cases[request.param] = Case(pipe, random_maps(pipe), arguments)
    return cases[request.param]


def timeless(maps: Mapping[str, AffineMap]) -> dict[str, dict[float | None, AffineMap]]:
    return {site: {None: one} for site, one in maps.items()}


@contextlib.contextmanager
def plain_hooks(
    pipe: DiffusionPipeline,
    maps: Mapping[str, AffineMap] | Callable[[str], AffineMap],
    weights_of: Callable[[int], torch.Tensor],
    sites: Sequence[str] = (),
) -> Iterator[None]:
    """The formula of the paper, written once more: images move by their mean, tokens each."""
    root = as_module(pipe)
    handles = []
    for site in sites or list(maps):  # type: ignore[arg-type]
        name, item = split_site(site)
        module = root.get_submodule(name)

        def hook(
            module: torch.nn.Module, given: Any, out: Any, site: str = site, item: int = item
        ) -> Any:
            x = out if isinstance(out, torch.Tensor) else out[item]
            one = maps(site) if callable(maps) else maps[site]
            weights = weights_of(len(x)).reshape(-1, *[1] * (x.dim() - 1))
            if lies_first(module):
                mean = x.mean((2, 3), keepdim=True)
                target = one.scale[:, None, None] * mean + one.shift[:, None, None]
                new = x + weights * (target - mean)
            else:
                new = x + weights * (one.scale * x + one.shift - x)
            if isinstance(out, torch.Tensor):
                return new
            return (*out[:item], new, *out[item + 1 :])

        handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def test_strengths_land_on_their_images(case: Case) -> None:
    together = case.mixed()
    for index, strength in enumerate(STRENGTHS):
        # One image at a time has no layout: all its rows have its strength.
        noise = [torch.Generator().manual_seed(index)]
        with plain_hooks(case.pipe, case.maps, lambda rows, s=strength: torch.full((rows,), s)):
            alone = case.draw([PROMPTS[index]], generator=noise)
        assert relative(together[index], alone[0]) < 1e-4


@pytest.mark.parametrize("layout", ["guidance in a batch", "streams", "blocks"])
def test_consecutive_repetition_would_land_elsewhere(layout: str, request: Any) -> None:
    """What the test above is for: the layout that is right for beams is wrong for guidance."""
    name, arguments = LAYOUTS[layout]
    pipe = request.getfixturevalue(name)
    wrong = Case(pipe, random_maps(pipe), arguments)
    given = torch.tensor(STRENGTHS)
    with plain_hooks(pipe, wrong.maps, lambda rows: given.repeat_interleave(rows // 3)):
        elsewhere = wrong.draw()
    together = wrong.steered(STRENGTHS)
    assert relative(elsewhere[0], together[0]) > 1e-2
    assert relative(elsewhere[2], together[2]) > 1e-2
    assert torch.equal(together[0], wrong.draw()[0])


def test_images_of_a_prompt_lie_next_to_each_other(sd: DiffusionPipeline) -> None:
    case = Case(sd, random_maps(sd), {})
    strengths = [0.0, 1.0, 0.3, 0.7]
    together = case.steered(strengths, PROMPTS[:2], num_images_per_prompt=2)
    for index, strength in enumerate(strengths):
        noise = [torch.Generator().manual_seed(index)]
        with plain_hooks(sd, case.maps, lambda rows, s=strength: torch.full((rows,), s)):
            alone = case.draw([PROMPTS[index // 2]], generator=noise)
        assert relative(together[index], alone[0]) < 1e-4


def test_strengths_of_zero_keep_every_bit_of_the_run(case: Case) -> None:
    assert torch.equal(case.steered([0.0, 0.0, 0.0]), case.draw())


def test_a_strength_of_zero_keeps_every_bit_of_its_image(case: Case) -> None:
    plain, mixed = case.draw(), case.mixed()
    assert torch.equal(mixed[0], plain[0])
    assert relative(mixed[2], plain[2]) > 1e-2


def test_an_image_has_the_bits_of_a_batch_of_its_strength_alone(case: Case) -> None:
    for index, strength in enumerate(STRENGTHS):
        assert torch.equal(case.mixed()[index], case.mixed([strength] * 3)[index])


def test_leaving_restores_the_pipeline(case: Case) -> None:
    before = case.draw()
    with pytest.raises(KeyError), ImageMaps(timeless(case.maps)).applied(case.pipe, STRENGTHS):
        raise KeyError
    assert torch.equal(case.draw(), before)


@pytest.mark.parametrize(
    "site",
    [
        "transformer.transformer_blocks.0.attn.norm_q",  # [rows, tokens, heads, neurons]
        "transformer.transformer_blocks.0:1",
        "transformer.transformer_blocks.1.norm1:0",
        "transformer.transformer_blocks.1.norm1:2",  # a gate: [rows, neurons]
        "transformer.single_transformer_blocks.0.proj_out",
    ],
)
def test_outputs_of_every_shape(flux: DiffusionPipeline, site: str) -> None:
    pattern = site.replace(".", r"\.")
    case = Case(flux, random_maps(flux, [pattern]), {})
    assert list(case.maps) == [site.removesuffix(":0")]
    together = case.steered(STRENGTHS)
    with plain_hooks(flux, case.maps, lambda rows: torch.tensor(STRENGTHS)):
        assert relative(together, case.draw()) < 1e-5
    assert relative(together[2], case.draw()[2]) > 1e-5


def test_every_pixel_by_itself_where_each_was_fitted(sd: DiffusionPipeline) -> None:
    site = "unet.mid_block.resnets.0.norm1"
    (one,) = random_maps(sd, [site]).values()
    with ImageMaps({site: {None: one}}, "all").applied(sd, [1.0]):
        pixels = draw(sd, PROMPTS[:1])
    module = as_module(sd).get_submodule(site)
    scale, shift = one.scale[:, None, None], one.shift[:, None, None]
    handle = module.register_forward_hook(lambda m, given, x: scale * x + shift)
    try:
        expected = draw(sd, PROMPTS[:1])
    finally:
        handle.remove()
    assert relative(pixels, expected) < 1e-5
    with ImageMaps({site: {None: one}}, "mean").applied(sd, [1.0]):
        assert relative(draw(sd, PROMPTS[:1]), expected) > 1e-4


def test_conditional_rows_leave_the_negative_prompts_alone(sd: DiffusionPipeline) -> None:
    maps = random_maps(sd)
    with ImageMaps(timeless(maps), rows="conditional").applied(sd, STRENGTHS):
        steered = draw(sd, PROMPTS)
    weights = torch.tensor([0.0] * 3 + STRENGTHS)
    with plain_hooks(sd, maps, lambda rows: weights):
        assert relative(steered, draw(sd, PROMPTS)) < 1e-4


def test_conditional_rows_need_guidance_in_a_batch(flux: DiffusionPipeline) -> None:
    maps = ImageMaps(timeless(random_maps(flux)), rows="conditional")
    with (
        maps.applied(flux, STRENGTHS),
        pytest.raises(ValueError, match="1 row.* for each image.*write rows='both'"),
    ):
        draw(flux, PROMPTS)


def test_conditional_rows_need_an_order_that_is_known(pag: DiffusionPipeline) -> None:
    maps = timeless(random_maps(pag, [r"unet\.conv_norm_out"]))
    perturbed = {"guidance_scale": 0.0, "pag_scale": 3.0}
    with (
        ImageMaps(maps, rows="conditional").applied(pag, STRENGTHS),
        pytest.raises(ValueError, match="PAGPipeline runs several rows.*and rows='both'"),
    ):
        draw(pag, PROMPTS, **perturbed)


def test_rows_of_any_order_are_steered_together(pag: DiffusionPipeline) -> None:
    maps = timeless(random_maps(pag, [r"unet\.conv_norm_out"]))
    perturbed = {"guidance_scale": 0.0, "pag_scale": 3.0}
    plain = draw(pag, PROMPTS, **perturbed)
    with ImageMaps(maps).applied(pag, STRENGTHS):
        moved = draw(pag, PROMPTS, **perturbed)
    kept = [torch.equal(*pair) for pair in zip(plain, moved, strict=True)]
    assert kept == [one == 0 for one in STRENGTHS]


def test_each_step_has_the_map_of_the_nearest_timestep(sd: DiffusionPipeline) -> None:
    early, late = random_maps(sd, seed=1), random_maps(sd, seed=2)
    sd.scheduler.set_timesteps(4)
    steps = sd.scheduler.timesteps.tolist()
    # Fitted beside the steps: nearer to the first, and to the last three.
    fitted = (float(steps[0] + 40), float(steps[1] + 40))
    timed = {site: dict(zip(fitted, (early[site], late[site]), strict=True)) for site in early}
    with ImageMaps(timed).applied(sd, STRENGTHS):
        steered = draw(sd, PROMPTS, num_inference_steps=4)
    calls: list[Any] = []
    counting = sd.unet.register_forward_pre_hook(lambda *given: calls.append(0))
    try:
        with plain_hooks(
            sd,
            lambda site: (early if len(calls) == 1 else late)[site],
            lambda rows: torch.tensor(STRENGTHS).repeat(2),
            list(early),
        ):
            assert relative(steered, draw(sd, PROMPTS, num_inference_steps=4)) < 1e-4
    finally:
        counting.remove()
    with ImageMaps(timeless(early)).applied(sd, STRENGTHS):
        assert relative(draw(sd, PROMPTS, num_inference_steps=4), steered) > 1e-2


def test_tables_are_kept_for_the_running_step_alone(
    sd: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strength for each row makes them as many times larger than the maps."""
    made: list[weakref.ref[Any]] = []

    def place(*given: Any) -> Any:
        made.append(weakref.ref(mover := plain(*given)))
        return mover

    plain = steering.place
    monkeypatch.setattr(steering, "place", place)
    maps = random_maps(sd)
    sd.scheduler.set_timesteps(4)
    steps = sd.scheduler.timesteps.tolist()
    timed = {site: dict.fromkeys(map(float, steps), one) for site, one in maps.items()}
    with ImageMaps(timed).applied(sd, STRENGTHS):
        draw(sd, PROMPTS, num_inference_steps=4)
        assert len(made) == 4 * len(maps)
        assert sum(one() is not None for one in made) == len(maps)


def test_two_calls_of_a_step_have_the_same_map(flux: DiffusionPipeline) -> None:
    early, late = random_maps(flux, seed=1), random_maps(flux, seed=2)
    guided = {"true_cfg_scale": 3.0, "negative_prompt": ["a"] * 3}
    timed = {site: {1.0: early[site], 0.1: late[site]} for site in early}
    with ImageMaps(timed).applied(flux, STRENGTHS):
        steered = draw(flux, PROMPTS, **guided)
    calls: list[Any] = []
    counting = flux.transformer.register_forward_pre_hook(lambda *given: calls.append(0))
    try:
        with plain_hooks(
            flux,
            # Timesteps 1.0 and 0.5, with two calls at each.
            lambda site: (early if len(calls) <= 2 else late)[site],
            lambda rows: torch.tensor(STRENGTHS),
            list(early),
        ):
            expected = draw(flux, PROMPTS, **guided)
    finally:
        counting.remove()
    assert len(calls) == 4
    assert flux.scheduler.timesteps.tolist() == [1000, 500]
    assert relative(steered, expected) < 1e-4


def test_models_in_half_precision_round_once(sd: DiffusionPipeline) -> None:
    site = "unet.conv_norm_out"
    (one,) = random_maps(sd, [site]).values()
    half = copy.deepcopy(sd.unet).bfloat16()
    pipe = copy.copy(sd)
    pipe.unet, pipe.text_encoder = half, copy.deepcopy(sd.text_encoder).bfloat16()
    with ImageMaps({site: {None: one}}).applied(pipe, [0.0, 1.0]):
        steered = draw(pipe, PROMPTS[:2])
    assert steered.dtype == torch.bfloat16
    assert torch.equal(steered[0], draw(pipe, PROMPTS[:2])[0])
    assert not torch.equal(steered[1], draw(pipe, PROMPTS[:2])[1])


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_denoisers_give_the_same_bits(sd: DiffusionPipeline, offload: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    case = Case(sd, random_maps(sd), {})
    expected = case.steered(STRENGTHS)
    other = copy.copy(sd)
    other.unet = copy.deepcopy(sd.unet)
    if offload == "model":
        accelerate.cpu_offload_with_hook(other.unet, execution_device="cpu")
    else:
        accelerate.cpu_offload(other.unet, execution_device=torch.device("cpu"))
        assert next(other.unet.parameters()).is_meta
    assert torch.equal(Case(other, case.maps, {}).steered(STRENGTHS), expected)


def test_a_pipeline_of_the_same_modules_is_steered_too(sd: DiffusionPipeline) -> None:
    maps = random_maps(sd)
    sibling = StableDiffusionPipeline.from_pipe(sd)
    sibling.set_progress_bar_config(disable=True)
    with ImageMaps(timeless(maps)).applied(sd, STRENGTHS):
        assert torch.equal(draw(sibling, PROMPTS), draw(sd, PROMPTS))


def test_sites_that_a_call_leaves_out_are_found(
    sd: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As caches do that replace a block's forward, of which no hook tells."""
    monkeypatch.setattr(sd.unet.mid_block, "forward", lambda x, *given, **named: x)
    with (
        ImageMaps(timeless(random_maps_of_all(sd))).applied(sd, STRENGTHS),
        pytest.raises(ValueError, match=r"unet\.mid_block\.\S+, .* did not run in a call"),
    ):
        draw(sd, PROMPTS)


def test_a_layout_is_checked_once_and_again_when_it_changes(
    sd: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check makes an accelerator wait."""
    checked: list[int] = []
    monkeypatch.setattr(steering, "check_tiled", lambda batch, _: checked.append(len(batch)))
    with ImageMaps(timeless(random_maps(sd))).applied(sd, STRENGTHS):
        draw(sd, PROMPTS, num_inference_steps=4)
        assert checked == [6]
        draw(sd, PROMPTS, num_inference_steps=4, guidance_scale=1.0)
        assert checked == [6, 3]


def random_maps_of_all(pipe: DiffusionPipeline) -> dict[str, AffineMap]:
    one = random_maps(pipe, ["unet.conv_norm_out"])["unet.conv_norm_out"]
    sites = [f"unet.mid_block.resnets.{index}.norm{norm}" for index in (0, 1) for norm in (1, 2)]
    return {"unet.conv_norm_out": one, **dict.fromkeys(sites, one)}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_strength_is_needed_for_each_image(sdxl: DiffusionPipeline, count: int) -> None:
    """Two strengths for four images would divide the rows as two sides of guidance do."""
    maps = ImageMaps(timeless(random_maps(sdxl)))
    with (
        maps.applied(sdxl, [0.5] * count),
        pytest.raises(ValueError, match=f"strengths: {count} were given.*give one strength for"),
    ):
        draw(sdxl, [*PROMPTS, "a coat"], guidance_scale=0.0)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "sana", "pixart"])
def test_a_strength_for_each_side_of_guidance_is_refused(name: str, request: Any) -> None:
    """The rows alone would be six images as well."""
    pipe = request.getfixturevalue(name)
    maps = ImageMaps(timeless(random_maps(pipe)))
    with (
        maps.applied(pipe, STRENGTHS * 2),
        pytest.raises(ValueError, match=r"strengths: 6 were given, .* makes 3 image\(s\)"),
    ):
        draw(pipe, PROMPTS)


@pytest.mark.parametrize(
    ("count", "images", "guidance"), [(2, 3, 3.0), (2, 4, 3.0), (2, 4, 0.0), (1, 3, 3.0)]
)
def test_images_of_one_noise_are_counted_too(
    sdxl: DiffusionPipeline, count: int, images: int, guidance: float
) -> None:
    """Their rows are all equal, and do not tell images from sides of guidance."""
    noise = [torch.Generator().manual_seed(0) for _ in range(images)]
    plain = sdxl.scheduler.step
    with (
        ImageMaps(timeless(random_maps(sdxl))).applied(sdxl, [0.0, 1.0][-count:]),
        pytest.raises(ValueError, match=f"strengths: {count} were given, .* makes {images} image"),
    ):
        draw(sdxl, ["a coat"] * images, generator=noise, guidance_scale=guidance)
    assert sdxl.scheduler.step == plain


def test_a_copied_scheduler_counts_its_own_images(sdxl: DiffusionPipeline) -> None:
    with images_counted(sdxl, 2):
        copied = copy.deepcopy(sdxl.scheduler)
    copied.set_timesteps(2)
    latents = torch.zeros(2, 4, 2, 2)
    copied.step(latents, copied.timesteps[0], latents)
    assert copied.step_index == 1 and sdxl.scheduler.step_index != 1
    with pytest.raises(ValueError, match="makes 3 image"):
        copied.step(latents, copied.timesteps[1], latents[[0, 0, 1]])


def test_images_of_one_noise_are_no_sides_of_guidance(sdxl: DiffusionPipeline) -> None:
    noise = [torch.Generator().manual_seed(0) for _ in range(2)]
    with ImageMaps(timeless(random_maps(sdxl))).applied(sdxl, [0.0, 1.0]):
        moved = draw(sdxl, ["a coat"] * 2, generator=noise, guidance_scale=0.0)
    assert relative(moved[1], moved[0]) > 1e-2


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("unet.nothing", "has no module 'unet.nothing'; nearest"),
        ("text_encoder.final_layer_norm", "lie outside of 'unet'.*choose modules 'unet"),
        ("unet.conv_out", "has 4 neurons, its map 3"),
        ("unet.conv_act", "which axis holds the neurons of a SiLU.*choose a norm"),
        ("unet.add_time_proj", r"\(36, 8\), whose first axis is not the 6 rows.*leave it out"),
    ],
)
def test_sites_that_cannot_be_transported(sdxl: DiffusionPipeline, site: str, message: str) -> None:
    one = AffineMap.everywhere(torch.ones(3), torch.zeros(3))
    maps = ImageMaps({site: {None: one}})
    with pytest.raises(ValueError, match=message), maps.applied(sdxl, STRENGTHS):
        draw(sdxl, PROMPTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "max"}, "pooling='max' is unknown"),
        ({"rows": "negative"}, "rows='negative' is unknown"),
        ({"maps": {"unet.conv_in": {}}}, "has maps at the timesteps \\[\\]: give one"),
    ],
)
def test_maps_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageMaps(**{"maps": {}, **arguments})


@pytest.mark.parametrize(
    ("strengths", "message"), [([], "strengths is empty"), ([0.0, float("nan")], "finite")]
)
def test_strengths_that_are_none(
    sd: DiffusionPipeline, strengths: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message), ImageMaps({}).applied(sd, strengths):
        pass


def test_fingerprints_tell_maps_apart(flux: FluxPipeline) -> None:
    maps = random_maps(flux)
    (first, *_) = maps
    other = {**maps, first: AffineMap.everywhere(maps[first].scale, maps[first].shift + 1)}
    variants = [
        ImageMaps(timeless(maps)),
        ImageMaps(timeless(other)),
        ImageMaps(timeless(maps), "all"),
        ImageMaps(timeless(maps), rows="conditional"),
        ImageMaps({site: {1.0: one} for site, one in maps.items()}),
    ]
    assert len({one.fingerprint for one in variants}) == len(variants)
    assert ImageMaps(timeless(maps)).fingerprint == variants[0].fingerprint
