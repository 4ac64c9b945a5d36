"""One denoising run, against refitting site by site with a run of the pipeline for each.

The slow way is definition 3.2 of arXiv 2410.23054 with plain hooks: all sites and steps before one
are transported, the pipeline runs, and the next map is fitted to what arrives there. The original
pools and moves the outputs of a UNet in the same way (github.com/apple/ml-act, `LinearOTHook` and
`PostprocessAndSaveHook`): images as a whole by the mean of each channel, of guidance's two halves
the second.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from sklearn.metrics import roc_auc_score

from aim_plugins.core.identity import seed_of
from vision_bench.diffusion import learning
from vision_bench.diffusion.fit import fit_transport

SOURCE = ["a red coat", "a blue boot", "red boot", "coat", "a coat with boot"]
TARGET = ["a striped coat", "striped", "a blue coat striped"]

NORM, RESNET = "unet.down_blocks.1.resnets.0.norm1", "unet.down_blocks.1.resnets.0"
BLOCK = "unet.down_blocks.1.attentions.0"
SITES = [
    NORM,  # 4-D
    RESNET,
    f"{BLOCK}.transformer_blocks.0.norm2",  # 3-D
    f"{BLOCK}.transformer_blocks.0.attn2",
    BLOCK,  # 4-D in a tuple
    "unet.mid_block.resnets.0.norm2",
    "unet.conv_norm_out",
]
"""Sites of the UNet in the order in which they run."""

FEW = [NORM, f"{BLOCK}.transformer_blocks.0.norm2", BLOCK, "unet.conv_norm_out"]
"""One of each shape, for refits of several steps."""

STREAMS = ["transformer.transformer_blocks.0:1", "transformer.single_transformer_blocks.0"]
"""A stream of the image and one of the text of FLUX, the latter first in its tuple."""


@dataclass
class Layout:
    """How a pipeline calls its denoiser, which the slow way is told."""

    sites: list[str]
    rows: int = 2
    calls: int = 1
    call: dict[str, Any] = field(default_factory=dict)


GUIDED = Layout(SITES, call={"guidance_scale": 3.0})
STEPS = Layout(FEW, call=GUIDED.call)
UNGUIDED = Layout(FEW, rows=1, call={"guidance_scale": 1.0})
FLUX = Layout(STREAMS, rows=1)
TWO_CALLS = Layout(
    STREAMS, rows=1, calls=2, call={"true_cfg_scale": 3.0, "negative_prompt": "boot"}
)
SD3 = Layout(
    ["transformer.transformer_blocks.0", "transformer.transformer_blocks.0:1"]
    + ["transformer.transformer_blocks.1.attn.norm_q", "transformer.transformer_blocks.1:1"]
)
PIXART = Layout(
    ["transformer.transformer_blocks.0", "transformer.transformer_blocks.1"],
    call={"use_resolution_binning": False, "clean_caption": False},
)
SANA = Layout(  # None would leave the instruction to the pipeline, which has a long one
    ["transformer.transformer_blocks.0.attn2", "transformer.transformer_blocks.0"]
    + ["transformer.transformer_blocks.1"],
    call={
        **PIXART.call,
        "complex_human_instruction": [],
        "max_sequence_length": 8,
        "height": 32,
        "width": 32,
    },
)


@pytest.fixture(scope="module")
def exact(request) -> Any:
    """Pipelines in double precision, by name."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = copy.deepcopy(request.getfixturevalue(name)).to(torch.float64)
            made[name].set_progress_bar_config(disable=True)
        return made[name]

    return get


def fit(pipe, layout=GUIDED, source=SOURCE, target=TARGET, **options):
    options = {
        "modules": [site.replace(".", r"\.") for site in layout.sites],
        "support": "none",
        "num_inference_steps": 2,
        "height": 16,
        "width": 16,
        "batch_size": 16,
        "progress": False,
        **layout.call,
        **options,
    }
    return fit_transport(pipe, source, target, **options)


def noise(n_source, n_target, seed=0):
    numbers = [*range(n_source), *range(n_target)]
    return [torch.Generator().manual_seed(seed_of(seed, "image", number)) for number in numbers]


def module_of(pipe, site):
    component, name = site.partition(":")[0].split(".", 1)
    return getattr(pipe, component).get_submodule(name)


@contextlib.contextmanager
def hooked(pipe, sites, change):
    """Calls change(site, number of the call, output), which returns what takes its place."""
    handles = []

    def attach(site):
        item = int(site.partition(":")[2] or 0)
        calls = []

        def hook(module, inputs, output):
            calls.append(site)
            alone = isinstance(output, torch.Tensor)
            changed = change(site, len(calls) - 1, output if alone else output[item])
            return changed if alone else (*output[:item], changed, *output[item + 1 :])

        handles.append(module_of(pipe, site).register_forward_hook(hook))

    for site in sites:
        attach(site)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channels_last(output, site):
    """Rows, places and neurons; images have their neurons first, queries by heads last."""
    if output.dim() == 4 and site.startswith("unet"):
        output = output.movedim(1, -1)
    return output.flatten(1, -2)


def line(source, target):
    """Least squares through equal quantiles, each sample as often as makes both sides alike."""
    count = math.lcm(len(source), len(target))
    a = np.sort(np.repeat(source, count // len(source), axis=0), axis=0)
    b = np.sort(np.repeat(target, count // len(target), axis=0), axis=0)
    fits = [np.polyfit(a[:, k], b[:, k], 1) for k in range(a.shape[1])]
    return tuple(torch.tensor(np.stack(fits, 1)))


def means(source, target):
    shift = torch.tensor(target.mean(0) - source.mean(0))
    return torch.ones_like(shift), shift


def moved(output, site, scale, shift, strengths, pooling):
    """Images as a whole by their mean, or each pixel; tokens one by one."""
    first = output.dim() == 4 and site.startswith("unet")
    values = output.movedim(1, -1) if first else output
    at = values.mean((1, 2), keepdim=True) if first and pooling == "mean" else values
    weights = strengths.reshape(-1, *[1] * (values.dim() - 1))
    values = values + weights * (at * scale + shift - at)
    return values.movedim(-1, 1) if first else values


def refit(
    pipe,
    layout,
    *,
    timesteps="first",
    incremental="causal",
    pooling="mean",
    strength=1.0,
    rows="both",
    steps=2,
    learn=line,
):
    """The slow way: the maps of each site by the number of their step, or by None."""
    n_source, n = len(SOURCE), len(SOURCE) + len(TARGET)
    side = {"causal": [1.0] * n, "source": [1.0] * n_source + [0.0] * len(TARGET)}
    one_half = torch.tensor(side.get(incremental, [0.0] * n), dtype=torch.float64) * strength
    halves = [one_half] * layout.rows
    if rows == "conditional":
        halves[0] = torch.zeros_like(one_half)
    strengths = torch.cat(halves)
    acting, responses, maps = {}, {}, {}

    def respond(wanted, at_step):
        """Outputs of a site's first call at a step, behind all maps so far."""
        seen = []

        def change(site, number, output):
            step, second = divmod(number, layout.calls)
            if (site, step) == (wanted, at_step) and not second:
                seen.append(channels_last(output[-n:], site).numpy())
            if (site, step) not in acting:
                return output
            return moved(output, site, *acting[site, step], strengths, pooling)

        with hooked(pipe, layout.sites, change):
            pipe(
                prompt=[*SOURCE, *TARGET],
                generator=noise(n_source, n - n_source),
                num_inference_steps=steps,
                output_type="latent",
                **{"height": 16, "width": 16, **layout.call, **negatives(layout, n)},
            )
        found = seen[0].mean(1, keepdims=True) if pooling == "mean" else seen[0]
        return [part.reshape(-1, part.shape[-1]) for part in (found[:n_source], found[n_source:])]

    for step in range(1 if timesteps == "first" else steps):
        for site in layout.sites:
            responses.setdefault(site, []).append(respond(site, step))
            sides = responses[site] if timesteps == "pooled" else responses[site][-1:]
            learned = learn(*(np.concatenate(parts) for parts in zip(*sides, strict=True)))
            acting[site, step] = learned
            maps.setdefault(site, {})[step if timesteps == "each" else None] = learned
    return maps


def negatives(layout, count):
    text = layout.call.get("negative_prompt")
    return {} if text is None else {"negative_prompt": [text] * count}


def assert_maps(found, wanted, tolerance=1e-5):
    """Maps are float32; those of the slow way are named by the number of their step."""
    assert list(found.maps.maps) == list(wanted)
    for site, timed in wanted.items():
        pairs = zip(found.maps.maps[site].values(), timed.values(), strict=True)
        for number, (one, (scale, shift)) in enumerate(pairs):
            for values, expected in ((one.scale, scale), (one.shift, shift)):
                bound = tolerance * max(1.0, float(expected.abs().max()))
                difference = float((values.double() - expected).abs().max())
                assert difference < bound, (site, number, difference)


def as_pairs(found):
    return {
        site: {key: (one.scale.double(), one.shift.double()) for key, one in timed.items()}
        for site, timed in found.maps.maps.items()
    }


@pytest.mark.parametrize(
    ("layout", "batch_size", "options"),
    [
        (GUIDED, 16, {}),
        (STEPS, 3, {"timesteps": "each"}),
        (STEPS, 16, {"timesteps": "pooled"}),
        (STEPS, 3, {"rows": "conditional", "timesteps": "each"}),
        (GUIDED, 3, {"strength": 0.4}),
        (GUIDED, 3, {"pooling": "all"}),
        (UNGUIDED, 16, {"timesteps": "each"}),
        (UNGUIDED, 3, {"incremental": "source", "timesteps": "each"}),
        (UNGUIDED, 16, {"incremental": "source", "timesteps": "pooled"}),
        (UNGUIDED, 3, {"incremental": "atonce", "timesteps": "each"}),
        (UNGUIDED, 3, {"incremental": "atonce", "timesteps": "pooled"}),
    ],
    ids=lambda one: " ".join(map(str, one.values())) if isinstance(one, dict) else None,
)
def test_one_run_gives_what_refitting_site_by_site_does(exact, layout, batch_size, options):
    pipe = exact("sd")
    found = fit(pipe, layout, batch_size=batch_size, **options)
    assert_maps(found, refit(pipe, layout, **options), 2e-5)


@pytest.mark.parametrize("timesteps", ["first", "each"])
@pytest.mark.parametrize(
    ("name", "layout"),
    [("flux", FLUX), ("flux", TWO_CALLS), ("sd3", SD3), ("pixart", PIXART), ("sana", SANA)],
    ids=["one call", "two calls", "norms of queries", "blocks", "linear attention"],
)
def test_transformers_are_fitted_as_by_hand(exact, name, layout, timesteps):
    pipe = exact(name)
    found = fit(pipe, layout, batch_size=3, timesteps=timesteps)
    assert_maps(found, refit(pipe, layout, timesteps=timesteps), 2e-5)


def test_rules_and_rows_differ_behind_the_first_site(exact):
    pipe = exact("sd")
    causal = fit(pipe)
    for options in ({"incremental": "source"}, {"incremental": "atonce"}, {"rows": "conditional"}):
        other = fit(pipe, **options)
        differences = [
            float((causal.maps.maps[site][None].shift - other.maps.maps[site][None].shift).norm())
            for site in SITES
        ]
        assert differences[0] < 1e-5, options
        # Rows of negative prompts meet those of the prompts in no site, only in the next step.
        assert (max(differences[1:]) > 1e-2) == ("rows" not in options), options


def test_sites_are_fitted_in_the_order_in_which_they_run(exact):
    pipe = exact("sd")
    registered = [
        f"unet.{name}" for name, _ in pipe.unet.named_modules() if f"unet.{name}" in SITES
    ]
    assert registered != SITES, "the pipeline has to tell the two orders apart"
    assert list(fit(pipe).metadata.sites) == SITES


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sd", {"timesteps": "each"}),
        ("sdxl", {"pooling": "all"}),
        ("flux", {"timesteps": "each"}),
        ("sd3", {"pooling": "all"}),
        ("pixart", {"timesteps": "each"}),
        ("sana", {"timesteps": "each"}),
    ],
)
def test_batches_with_schedulers_of_their_own_give_the_maps_of_one_batch(exact, name, options):
    """At the default sites of each denoiser."""
    pipe = exact(name)
    call = {"pixart": PIXART.call, "sana": SANA.call}.get(name, {})
    whole = fit(pipe, modules=None, **call, **options)
    parts = fit(pipe, modules=None, batch_size=3, **call, **options)
    assert_maps(parts, as_pairs(whole), 1e-4)
    assert parts.metadata.held == pytest.approx(whole.metadata.held, abs=1e-3)


def test_the_original_s_settings_give_its_formulas(exact):
    """At once, one step, hard support: as `PostprocessAndSaveHook` and `LinearProj.optimize`."""
    pipe = exact("sd")
    target = [*TARGET, "a coat", "blue"]
    found = fit(
        pipe,
        target=target,
        incremental="atonce",
        timesteps="first",
        num_inference_steps=1,
        support="minmax",
    )
    seen = {}

    def note(site, number, output):
        half = output.float().chunk(2)[1]
        dim = (2, 3) if half.dim() == 4 else 1
        seen[site] = torch.nanmean(half, dim=dim).double()
        return output

    with hooked(pipe, SITES, note):
        call = {"num_inference_steps": 1, "guidance_scale": 3.0, "height": 16, "width": 16}
        generator = noise(5, 5)
        pipe(prompt=[*SOURCE, *target], generator=generator, output_type="latent", **call)
    for site, pooled in seen.items():
        x, y = pooled[:5].sort(0).values, pooled[5:].sort(0).values
        x_bar, y_bar = x - x.mean(0), y - y.mean(0)
        beta = (x_bar * y_bar).sum(0) / (x_bar**2).sum(0)
        alpha = y.mean(0) - beta * x.mean(0)
        one = found.maps.maps[site][None]
        torch.testing.assert_close(one.scale.double(), beta, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.shift.double(), alpha, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.support_min.double(), x[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.support_max.double(), x[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("timesteps", ["first", "each"])
def test_applied_mean_transport_meets_the_target_at_every_site(exact, timesteps):
    """With `source`, the target is what the denoiser does on target prompts by itself."""
    pipe = exact("sd")
    transport = fit(pipe, method="mean", incremental="source", timesteps=timesteps)
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}

    def responses(prompts):
        seen = {}

        def note(site, number, output):
            rows = channels_last(output[-len(prompts) :], site)
            seen.setdefault((site, number), rows.mean((0, 1)))
            return output

        with hooked(pipe, SITES, note):
            generator = noise(len(prompts), 0)
            pipe(prompt=prompts, generator=generator, **GUIDED.call, **call)
        return seen

    wanted = responses(TARGET)
    with transport.applied(pipe, [1.0] * len(SOURCE)):
        arrived = responses(SOURCE)
    for site in SITES:
        for number in range(2 if timesteps == "each" else 1):
            torch.testing.assert_close(
                arrived[site, number], wanted[site, number], rtol=1e-4, atol=1e-4, msg=site
            )


def respond_once(pipe, prompts):
    """Pooled responses of the prompts at all sites in the first step, nothing attached."""
    seen = {}

    def note(site, number, output):
        seen.setdefault(site, channels_last(output[-len(prompts) :], site).mean(1).numpy())
        return output

    with hooked(pipe, SITES, note):
        call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
        pipe(prompt=prompts, generator=noise(len(prompts), 0), **GUIDED.call, **call)
    return seen


@pytest.mark.parametrize("method", ["gaussian", "mean", "aura", "iti"])
def test_all_methods_with_a_meaning_for_images_are_fitted(exact, method):
    pipe = exact("sd")
    found = fit(pipe, method=method, incremental="atonce")
    source, target = respond_once(pipe, SOURCE), respond_once(pipe, TARGET)
    told = 0
    for site in SITES:
        one, a, b = found.maps.maps[site][None], source[site], target[site]
        scale, shift = np.ones(a.shape[1]), b.mean(0) - a.mean(0)
        if method == "gaussian":
            spread = (a.std(0, ddof=1) > 1e-4) & (b.std(0, ddof=1) > 1e-4)
            scale = np.where(spread, b.std(0, ddof=1) / a.std(0, ddof=1), 1.0)
            shift = b.mean(0) - scale * a.mean(0)
        if method == "aura":  # norms before the text are tied, so last bits order their pairs
            labels = [1] * len(a) + [0] * len(b)
            ends = [
                [roc_auc_score(labels, column) for column in np.concatenate([a + tie, b]).T]
                for tie in (1e-6, -1e-6)
            ]
            least, most = 1 - 2 * np.maximum(np.array(ends) - 0.5, 0)
            assert (one.scale.numpy() > least - 1e-6).all()
            assert (one.scale.numpy() < most + 1e-6).all()
            assert not one.shift.any()
            told += int((least == most).sum())
            continue
        if method == "iti":  # the probe's direction points from source to target
            assert float(one.shift.double() @ torch.tensor(shift)) > 0
            assert torch.equal(one.scale, torch.ones_like(one.scale))
            continue
        np.testing.assert_allclose(one.scale, scale, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.shift, shift, rtol=1e-4, atol=1e-5)
    assert method != "aura" or told > 32


@pytest.mark.parametrize(
    ("name", "layout", "wanted"),
    [
        ("sd", GUIDED, [501.0, 1.0]),
        ("sdxl", GUIDED, [999.0, 499.0]),
        ("flux", FLUX, [1.0, 0.5]),
        ("flux", TWO_CALLS, [1.0, 0.5]),
    ],
)
def test_maps_of_each_step_have_the_denoiser_s_own_timesteps(request, name, layout, wanted):
    pipe = request.getfixturevalue(name)
    found = fit(pipe, layout, timesteps="each", modules=layout.sites[-1])
    assert list(found.metadata.fitted_timesteps) == wanted
    assert all(list(timed) == wanted for timed in found.maps.maps.values())


@pytest.mark.parametrize("timesteps", ["first", "pooled"])
def test_one_map_serves_all_steps_and_notes_which_it_saw(sd, timesteps):
    found = fit(sd, timesteps=timesteps)
    assert all(list(timed) == [None] for timed in found.maps.maps.values())
    assert (
        list(found.metadata.fitted_timesteps)
        == {"first": [501.0], "pooled": [501.0, 1.0]}[timesteps]
    )


def test_the_first_step_s_fit_leaves_the_others_out(sd):
    calls = []
    handle = sd.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    with handle:
        fit(sd, num_inference_steps=5, batch_size=4)
    assert len(calls) == 1 + 2, "one for the probe, one for each batch"


def test_the_same_seed_gives_the_same_bits_and_another_one_other_maps(sd):
    options = {"support": "minmax", "timesteps": "each", "batch_size": 3}
    first, second, other = (fit(sd, seed=seed, **options) for seed in (1, 1, 2))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != other.fingerprint


def test_noise_belongs_to_the_number_of_an_image_and_is_shared_by_both_sides(sd):
    """The denoiser's first input in batches of any size."""

    def inputs(batch_size):
        seen = []
        handle = sd.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0].chunk(2)[1]))
        with handle:
            fit(sd, batch_size=batch_size)
        return torch.cat(seen[1:])  # behind the probe's

    whole = inputs(16)
    assert torch.equal(whole, inputs(3)) and torch.equal(whole, inputs(1))
    source, target = whole[: len(SOURCE)], whole[len(SOURCE) :]
    assert torch.equal(source[: len(TARGET)], target)
    assert len(source.flatten(1).unique(dim=0)) == len(SOURCE)


def test_the_pipeline_keeps_no_trace(sd):
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}

    def images():
        return sd(prompt="a coat", generator=torch.Generator().manual_seed(0), **call).images

    before, config = images(), dict(sd.config)
    state = {key: repr(value) for key, value in vars(sd.scheduler).items()}
    threads, random = threading.active_count(), torch.random.get_rng_state()
    fit(sd, batch_size=3, timesteps="each")
    fit(sd, batch_size=16)
    assert {key: repr(value) for key, value in vars(sd.scheduler).items()} == state
    assert dict(sd.config) == config
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_hooks for module in sd.unet.modules())
    assert not any(module._forward_pre_hooks for module in sd.unet.modules())
    assert threading.active_count() == threads
    assert torch.equal(images(), before)


def test_findings_are_reported_for_each_map(sd):
    reports = []
    found = fit(sd, timesteps="each", on_site=reports.append).metadata
    assert [report.site for report in reports] == [
        f"{site}@{timestep}" for timestep in (501, 1) for site in SITES
    ]
    held = [report for report in reports if report.held is not None]
    assert sorted(report.site.partition("@")[0] for report in held) == sorted(SITES)
    assert {report.site.partition("@")[2] for report in held} == {"501", "1"}
    assert found.moved == pytest.approx(np.mean([report.moved for report in held]))
    assert found.held == pytest.approx(np.mean([report.held for report in held]))


def test_maps_that_follow_chance_are_warned_of(sd, caplog):
    fit(sd, target=SOURCE[::-1])
    assert "chance of these 5 + 5 prompts" in caplog.text
    assert "images may break down: give more prompts" in caplog.text


def test_the_metadata_tells_how_the_maps_were_fitted(sd):
    found = fit(sd, seed=7, batch_size=3, strength=0.5, rows="conditional", timesteps="each")
    known = found.metadata
    assert (known.method, known.pooling, known.support, known.rows) == (
        *("linear", "mean", "none", "conditional"),
    )
    assert (known.timesteps, known.incremental, known.strength) == ("each", "causal", 0.5)
    assert (known.n_source, known.n_target, known.seed, known.batch_size) == (5, 3, 7, 3)
    assert (known.pipeline, known.component) == ("StableDiffusionPipeline", "unet")
    assert (known.num_inference_steps, known.guidance_scale) == (2, 3.0)
    assert (known.height, known.width) == (16, 16)
    assert known.scheduler["class"] == "DDIMScheduler"
    assert known.scheduler["num_train_timesteps"] == 1000
    assert known.versions["diffusers"]
    assert known.data_sha256 != fit(sd, source=SOURCE[1:]).metadata.data_sha256


@pytest.mark.parametrize(
    ("name", "layout", "steps", "guidance"),
    [("sd", GUIDED, 50, 7.5), ("pixart", PIXART, 20, 4.5)],
)
def test_what_is_left_to_the_pipeline_is_noted(request, name, layout, steps, guidance):
    """As the pipelines of diffusers 0.42 declare."""
    options = dict.fromkeys(("guidance_scale", "num_inference_steps", "height", "width"))
    known = fit(request.getfixturevalue(name), layout, **options).metadata
    assert (known.num_inference_steps, known.guidance_scale) == (steps, guidance)
    assert (known.height, known.width) == (16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "liner"}, "method='liner' is unknown; did you mean 'linear'"),
        ({"method": "caa"}, "method='caa' takes the last token of a sentence.*method='mean'"),
        ({"method": "actadd"}, "method='actadd' takes the last token.*one prompt a side"),
        ({"method": "lineas"}, "method='lineas' learns the maps of all sites with each other"),
        ({"method": "chars"}, "method='chars' moves neurons by what others are"),
        ({"method": "pca"}, "method='pca' takes the last token.*pairs of sentences"),
        ({"pooling": "max"}, "pooling='max' is unknown: write 'mean' or 'all'"),
        ({"timesteps": "frist"}, "timesteps='frist' is unknown; did you mean 'first'"),
        ({"support": "q90_10"}, "support='q90_10'"),
        ({"method": "aura", "support": "clip"}, "leave its support at 'none'"),
        ({"incremental": "incr"}, "incremental='incr' is unknown: choose one of causal, source, "),
        ({"rows": "positive"}, "rows='positive' is unknown: write 'both' or 'conditional'"),
        ({"strength": math.nan}, "strength=nan must be a finite number"),
        ({"batch_size": 0}, "batch_size=0: give a whole number from 1"),
        ({"num_inference_steps": 0}, "num_inference_steps=0: give a whole number from 1"),
        ({"source": SOURCE[:1]}, r"source has 1 prompt\(s\), and method='linear' needs at least 2"),
        ({"target": []}, r"target has 0 prompt\(s\).*give more prompts"),
        ({"modules": r"unet\..*nrom.*"}, "modules='unet.*' matches none .*nearest: .*norm"),
        ({"modules": r"text_encoder\..*layer_norm\d"}, "text_encoder.* lie outside of 'unet'"),
        (
            {"modules": r"vae\.decoder\..*"},
            "vae.decoder.* lie outside of 'unet', the network that runs at every step",
        ),
        ({"latents": 3}, "latents=3 is given for each image here"),
        ({"num_images_per_prompt": 2}, "num_images_per_prompt=2 is given for each image here"),
        ({"guidence_rescale": 0.5}, "takes no guidence_rescale=0.5; did you mean 'guidance_resc"),
    ],
)
def test_an_argument_out_of_range_is_named(sd, options, message):
    with pytest.raises(ValueError, match=message):
        fit(sd, **options)


def test_texts_and_plain_values_are_asked_for(sd):
    with pytest.raises(TypeError, match="source must be a list of texts, one for each prompt"):
        fit(sd, source="a red coat")
    with pytest.raises(TypeError, match="negative_prompt_embeds=.*must be a plain value"):
        fit(sd, negative_prompt_embeds=torch.zeros(1))


def test_rows_of_prompts_alone_need_guidance_in_one_batch(sd, flux):
    for pipe, layout in ((sd, UNGUIDED), (flux, TWO_CALLS)):
        with pytest.raises(ValueError, match=r"rows='conditional' needs a batch of negative and"):
            fit(pipe, layout, rows="conditional")


@pytest.mark.parametrize(("guidance", "attention"), [(0.0, 3.0), (3.0, 0.0), (3.0, 3.0)])
def test_rows_whose_order_is_not_known_are_refused(pag, guidance, attention):
    """Without guidance, those of perturbed attention are two for each prompt as well."""
    with pytest.raises(ValueError, match="pipeline: StableDiffusionPAGPipeline runs several rows"):
        fit(pag, guidance_scale=guidance, pag_scale=attention)


def test_a_row_for_each_prompt_has_no_order_to_know(pag):
    assert list(fit(pag, UNGUIDED, guidance_scale=0.0, pag_scale=0.0).maps.maps) == UNGUIDED.sites


@pytest.mark.parametrize("axis", [1, -1])
def test_of_many_places_the_same_are_drawn_of_every_image(monkeypatch, axis):
    monkeypatch.setattr(learning, "PLACES", 5)
    # Neuron k of place p of image i is 1000 i + 10 p + k.
    numbers = torch.arange(3.0)[:, None, None] * 1000 + torch.arange(12.0)[:, None] * 10
    output = (numbers + torch.arange(2.0)).movedim(-1, axis)
    found = {}
    for seed in range(4):
        pooled = learning.pool_places(output, axis, "all", seed)
        assert pooled.counts.tolist() == [5, 5, 5]
        values = pooled.values.reshape(3, 5, 2)
        assert torch.equal(values[1:] - values[:-1], torch.full((2, 5, 2), 1000.0))
        assert torch.equal(values[..., 1] - values[..., 0], torch.ones(3, 5))
        found[seed] = (values[0, :, 0] / 10).tolist()
        assert sorted(set(found[seed])) == found[seed]
        assert set(found[seed]) <= set(range(12))
        assert torch.equal(learning.pool_places(output, axis, "all", seed).values, pooled.values)
    assert len(set(map(tuple, found.values()))) > 1
    monkeypatch.setattr(learning, "PLACES", 12)
    assert len(learning.pool_places(output, axis, "all").values) == 36


def test_responses_that_no_memory_holds_are_refused_before_the_run(sd, monkeypatch):
    shapes = []
    note = sd.unet.conv_norm_out.register_forward_hook(lambda *given: shapes.append(given[2].shape))
    options = {"modules": r"unet\.conv_norm_out", "timesteps": "pooled", "pooling": "all"}
    try:
        monkeypatch.setattr(learning, "machine_memory", lambda: 0)
        with pytest.raises(ValueError, match="timesteps='pooled' keeps .* of 8 prompts.*'mean'"):
            fit(sd, **options)
        assert len(shapes) == 1
        kept = shapes[0][1:].numel() * 4 * 8 * 2  # float32, of each prompt at each step
        monkeypatch.setattr(learning, "machine_memory", lambda: kept - 1)
        with pytest.raises(ValueError, match="timesteps='pooled' keeps"):
            fit(sd, **options)
        monkeypatch.setattr(learning, "machine_memory", lambda: kept)
        fit(sd, **options)
    finally:
        note.remove()


def test_a_module_that_does_not_run_is_named(sd):
    pipe = copy.deepcopy(sd)
    pipe.unet.mid_block.spare = torch.nn.Linear(2, 2)
    with pytest.raises(
        ValueError, match=r"unet\.mid_block\.spare .* did not run in a forward pass"
    ):
        fit(pipe, modules=[r"unet\.conv_norm_out", r"unet\.mid_block\.spare"])


@pytest.mark.parametrize("batch_size", [16, 3])
def test_a_module_that_only_some_steps_use_is_refused(sd, batch_size):
    """As caches have it, whichever library adds them."""
    pipe = copy.deepcopy(sd)
    plain, block = pipe.unet.mid_block.forward, pipe.unet.mid_block
    times = []
    pipe.unet.register_forward_pre_hook(lambda _, args: times.append(float(args[1])))
    block.forward = lambda hidden, *args, **named: (
        hidden if times[-1] < 100 else plain(hidden, *args, **named)
    )
    threads = threading.active_count()
    with pytest.raises(ValueError, match=r"modules: unet\.mid_block\.resnets\.0\.norm2 .*"):
        fit(pipe, timesteps="each", batch_size=batch_size)
    assert threading.active_count() == threads


def test_a_cache_is_refused_by_name(flux):
    from diffusers import FirstBlockCacheConfig

    flux.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    try:
        with pytest.raises(ValueError, match="cache"):
            fit(flux, FLUX)
    finally:
        flux.transformer.disable_cache()


def test_a_compiled_denoiser_is_refused(sd):
    pipe = copy.copy(sd)
    pipe.unet = torch.compile(sd.unet, backend="eager")
    with pytest.raises(ValueError, match="compiled"):
        fit(pipe)


def test_a_model_in_training_mode_is_refused(sd):
    for name in ("unet", "text_encoder"):
        getattr(sd, name).train()
        try:
            with pytest.raises(ValueError, match=rf"{name} is in training mode.*pipe.{name}.eval"):
                fit(sd)
        finally:
            getattr(sd, name).eval()


def test_offloaded_models_are_fitted_in_one_batch_and_refused_in_several(sd):
    accelerate = pytest.importorskip("accelerate")
    wanted = fit(sd, timesteps="each")
    pipe = copy.deepcopy(sd)
    hook = None
    for name in ("text_encoder", "unet", "vae"):
        _, hook = accelerate.cpu_offload_with_hook(getattr(pipe, name), "cpu", hook)
    assert fit(pipe, timesteps="each").fingerprint == wanted.fingerprint
    with pytest.raises(NotImplementedError, match="batch_size: 3 passes .* offloaded and move"):
        fit(pipe, batch_size=3)


def test_sequentially_offloaded_models_are_refused_in_several_batches(sd):
    accelerate = pytest.importorskip("accelerate")
    pipe = copy.deepcopy(sd)
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"))
    with pytest.raises(NotImplementedError, match="batch_size: 3 passes .* are offloaded"):
        fit(pipe, batch_size=3)


@pytest.mark.parametrize("timesteps", ["first", "each"])
@pytest.mark.parametrize("name", ["sd", "flux"])
def test_several_batches_share_models_that_the_pipeline_offloads(
    name, timesteps, request, offloading
):
    """Weights that are away are NaN here; batches wait in the denoiser while others encode."""
    plain = request.getfixturevalue(name)
    layout = {"sd": GUIDED, "flux": FLUX}[name]
    wanted = fit(plain, layout, batch_size=3, timesteps=timesteps)
    pipe = copy.deepcopy(plain)
    pipe.enable_model_cpu_offload(device="cpu")
    found = fit(pipe, layout, batch_size=3, timesteps=timesteps)
    assert found.fingerprint == wanted.fingerprint
    denoiser = module_of(pipe, layout.sites[0].split(".")[0] + ".")
    assert all(one.isnan().all() for one in denoiser.parameters()), "it is put away in the end"


@pytest.mark.parametrize("batch_size", [16, 3])
def test_activations_that_are_not_finite_name_the_site(sd, batch_size):
    pipe = copy.deepcopy(sd)
    pipe.unet.mid_block.resnets[0].norm2.weight.data[3] = math.nan
    with pytest.raises(ValueError, match=rf"module '{SITES[5]}': .* NaN or infinite"):
        fit(pipe, batch_size=batch_size)


def test_half_precision_is_fitted_in_single(sd, caplog):
    """Maps of a bfloat16 pipeline are near those of float32, and the weights count as the same."""
    half = copy.deepcopy(sd).to(torch.bfloat16)
    wanted, found = fit(sd, method="mean"), fit(half, method="mean")
    for site in SITES[:2]:
        one, other = found.maps.maps[site][None], wanted.maps.maps[site][None]
        assert one.shift.dtype == torch.float32
        torch.testing.assert_close(one.shift, other.shift, rtol=0.1, atol=0.02)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        found.check_pipeline(sd)
    assert not caplog.records
