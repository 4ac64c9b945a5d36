"""The architectures have the layout of their published checkpoints, and compute what they should.

Key names and shapes are stated here a second time, from the published table of models
(https://github.com/chenyaofo/pytorch-cifar-models) and the papers, not taken from the code.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("torchvision")

from vision_bench.models.architectures import efficientnet_lite, segformer  # noqa: E402
from vision_bench.models.architectures.cifar import (  # noqa: E402
    CIFAR_MODELS,
    build_cifar_model,
    checkpoint_url,
)
from vision_bench.models.architectures.repvgg import RepVGG, fuse_repvgg  # noqa: E402

# Columns of the published table: parameters in millions with 10 and 100 classes, and
# multiply-adds in millions of the convolutions and linear layers on a 32×32 image, 10 classes.
PUBLISHED = {
    "resnet20": (0.27, 0.28, 40.81),
    "resnet32": (0.47, 0.47, 69.12),
    "resnet44": (0.66, 0.67, 97.44),
    "resnet56": (0.86, 0.86, 125.75),
    "vgg11_bn": (9.76, 9.80, 153.29),
    "vgg13_bn": (9.94, 9.99, 228.79),
    "vgg16_bn": (15.25, 15.30, 313.73),
    "vgg19_bn": (20.57, 20.61, 398.66),
    "mobilenetv2_x0_5": (0.70, 0.82, 27.97),
    "mobilenetv2_x0_75": (1.37, 1.48, 59.31),
    "mobilenetv2_x1_0": (2.24, 2.35, 87.98),
    "mobilenetv2_x1_4": (4.33, 4.50, 170.07),
    "shufflenetv2_x0_5": (0.35, 0.44, 10.90),
    "shufflenetv2_x1_0": (1.26, 1.36, 45.00),
    "shufflenetv2_x1_5": (2.49, 2.58, 94.26),
    "shufflenetv2_x2_0": (5.37, 5.55, 187.81),
    "repvgg_a0": (7.84, 7.96, 489.08),
    "repvgg_a1": (12.82, 12.94, 851.33),
    "repvgg_a2": (26.82, 26.94, 1850.10),
}

Layout = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Layout:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": (channels,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}


def conv(name: str, outputs: int, inputs: int, kernel: int) -> Layout:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel)}


def linear(name: str, outputs: int, inputs: int) -> Layout:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def resnet_layout(blocks: int, classes: int) -> Layout:
    layout = conv("conv1", 16, 3, 3) | norm("bn1", 16) | linear("fc", classes, 64)
    inputs = 16
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            layout |= conv(f"{name}.conv1", width, inputs, 3) | norm(f"{name}.bn1", width)
            layout |= conv(f"{name}.conv2", width, width, 3) | norm(f"{name}.bn2", width)
            if inputs != width:
                layout |= conv(f"{name}.downsample.0", width, inputs, 1)
                layout |= norm(f"{name}.downsample.1", width)
            inputs = width
    return layout


def vgg_layout(repeats: tuple[int, ...], classes: int) -> Layout:
    layout: Layout = {}
    index, inputs = 0, 3
    for width, repeat in zip((64, 128, 256, 512, 512), repeats, strict=True):
        for _ in range(repeat):
            layout |= conv(f"features.{index}", width, inputs, 3)
            layout |= {f"features.{index}.bias": (width,)} | norm(f"features.{index + 1}", width)
            index, inputs = index + 3, width  # convolution, normalisation, ReLU
        index += 1  # pooling
    layout |= linear("classifier.0", 512, 512) | linear("classifier.3", 512, 512)
    return layout | linear("classifier.6", classes, 512)


def mobilenet_layout(stem: int, widths: tuple[int, ...], last: int, classes: int) -> Layout:
    layout = conv("features.0.0", stem, 3, 3) | norm("features.0.1", stem)
    index, inputs = 1, stem
    for width, repeat, factor in zip(
        widths, (1, 2, 3, 4, 3, 3, 1), (1, 6, 6, 6, 6, 6, 6), strict=True
    ):
        for _ in range(repeat):
            name, hidden, layer = f"features.{index}.conv", inputs * factor, 0
            if factor > 1:
                layout |= conv(f"{name}.0.0", hidden, inputs, 1) | norm(f"{name}.0.1", hidden)
                layer = 1
            layout |= conv(f"{name}.{layer}.0", hidden, 1, 3) | norm(f"{name}.{layer}.1", hidden)
            layout |= conv(f"{name}.{layer + 1}", width, hidden, 1)
            layout |= norm(f"{name}.{layer + 2}", width)
            index, inputs = index + 1, width
    layout |= conv("features.18.0", last, inputs, 1) | norm("features.18.1", last)
    return layout | linear("classifier.1", classes, last)


def shufflenet_layout(widths: tuple[int, int, int], last: int, classes: int) -> Layout:
    layout = conv("conv1.0", 24, 3, 3) | norm("conv1.1", 24)
    inputs = 24
    for stage, width, repeat in zip((2, 3, 4), widths, (4, 8, 4), strict=True):
        half = width // 2
        for block in range(repeat):
            name = f"stage{stage}.{block}"
            if block == 0:
                layout |= conv(f"{name}.branch1.0", inputs, 1, 3) | norm(
                    f"{name}.branch1.1", inputs
                )
                layout |= conv(f"{name}.branch1.2", half, inputs, 1)
                layout |= norm(f"{name}.branch1.3", half)
            layout |= conv(f"{name}.branch2.0", half, inputs if block == 0 else half, 1)
            layout |= norm(f"{name}.branch2.1", half) | conv(f"{name}.branch2.3", half, 1, 3)
            layout |= norm(f"{name}.branch2.4", half) | conv(f"{name}.branch2.5", half, half, 1)
            layout |= norm(f"{name}.branch2.6", half)
        inputs = width
    layout |= conv("conv5.0", last, inputs, 1) | norm("conv5.1", last)
    return layout | linear("fc", classes, last)


def repvgg_layout(widths: tuple[int, ...], classes: int) -> Layout:
    names = ["stage0"]
    names += [f"stage{s}.{b}" for s, depth in enumerate((2, 4, 14, 1), 1) for b in range(depth)]
    layout = linear("linear", classes, widths[-1])
    inputs = 3
    for name in names:
        stage = int(name[5])
        width, strided = widths[stage], stage > 1 and name.endswith(".0")
        layout |= conv(f"{name}.rbr_dense.conv", width, inputs, 3)
        layout |= conv(f"{name}.rbr_1x1.conv", width, inputs, 1)
        layout |= norm(f"{name}.rbr_dense.bn", width) | norm(f"{name}.rbr_1x1.bn", width)
        if inputs == width and not strided:
            layout |= norm(f"{name}.rbr_identity", width)
        inputs = width
    return layout


def published_layout(architecture: str, classes: int) -> Layout:
    family, _, size = architecture.partition("_")
    if family.startswith("resnet"):
        return resnet_layout((int(family[6:]) - 2) // 6, classes)
    if family.startswith("vgg"):
        repeats = {
            "vgg11": (1, 1, 2, 2, 2),
            "vgg13": (2, 2, 2, 2, 2),
            "vgg16": (2, 2, 3, 3, 3),
            "vgg19": (2, 2, 4, 4, 4),
        }
        return vgg_layout(repeats[family], classes)
    if family == "mobilenetv2":
        stem, *widths, last = {
            "x0_5": (16, 8, 16, 16, 32, 48, 80, 160, 1280),
            "x0_75": (24, 16, 24, 24, 48, 72, 120, 240, 1280),
            "x1_0": (32, 16, 24, 32, 64, 96, 160, 320, 1280),
            "x1_4": (48, 24, 32, 48, 88, 136, 224, 448, 1792),
        }[size]
        return mobilenet_layout(stem, tuple(widths), last, classes)
    if family == "shufflenetv2":
        first, second, third, last = {
            "x0_5": (48, 96, 192, 1024),
            "x1_0": (116, 232, 464, 1024),
            "x1_5": (176, 352, 704, 1024),
            "x2_0": (244, 488, 976, 2048),
        }[size]
        return shufflenet_layout((first, second, third), last, classes)
    widths = {"a0": (48, 48, 96, 192, 1280), "a1": (64, 64, 128, 256, 1280)}
    return repvgg_layout(widths.get(size, (64, 96, 192, 384, 1408)), classes)


def on_meta(architecture: str, classes: int) -> nn.Module:
    with torch.device("meta"):
        return build_cifar_model(architecture, classes)


def layout_of(module: nn.Module) -> Layout:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def multiply_adds(module: nn.Module) -> int:
    """Multiplications in convolutions and linear layers for one 32×32 image."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, Tensor)
        total += output.numel() * layer.weight[0].numel()

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    module.eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    return total


def scramble_norms(model: nn.Module) -> None:
    """Gives every batch normalisation statistics and affine weights as training leaves them."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.5)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)


@pytest.mark.parametrize("architecture", PUBLISHED)
@pytest.mark.parametrize("classes", [10, 100])
def test_keys_and_shapes_are_those_of_the_published_checkpoint(architecture, classes):
    assert layout_of(on_meta(architecture, classes)) == published_layout(architecture, classes)


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_parameter_counts_are_the_published_ones(architecture):
    for classes, millions in zip((10, 100), PUBLISHED[architecture], strict=False):
        count = sum(p.numel() for p in on_meta(architecture, classes).parameters())
        assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_strides_give_the_published_multiply_adds(architecture):
    # Keys and shapes know nothing of strides and poolings; the work on an image does.
    millions = multiply_adds(on_meta(architecture, 10)) / 1e6
    assert millions == pytest.approx(PUBLISHED[architecture][2], rel=2e-3)


def test_resnet56_has_344_tensors():
    assert len(layout_of(on_meta("resnet56", 10))) == 344


@pytest.mark.parametrize(
    "architecture", ["resnet20", "vgg11_bn", "mobilenetv2_x0_5", "shufflenetv2_x0_5", "repvgg_a0"]
)
def test_a_batch_of_images_gives_one_row_of_logits_each(architecture):
    model = build_cifar_model(architecture, 100).eval()
    with torch.no_grad():
        images = torch.randn(3, 3, 32, 32)
        together = model(images)
        alone = model(images[1:2])
    assert together.shape == (3, 100)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_every_published_checkpoint_has_its_own_address():
    urls = {checkpoint_url(name) for name in CIFAR_MODELS}
    assert len(urls) == 2 * len(PUBLISHED) == 38
    assert checkpoint_url("cifar100_repvgg_a2").endswith("/repvgg/cifar100_repvgg_a2-8e71b1f8.pt")
    assert checkpoint_url("cifar10_mobilenetv2_x0_75").endswith(
        "/mobilenetv2/cifar10_mobilenetv2_x0_75-a53c314e.pt"
    )


@pytest.mark.parametrize("size", ["a0", "a1", "a2"])
def test_fused_repvgg_gives_the_same_logits(size):
    torch.manual_seed(0)
    model = RepVGG(size, 10).eval()
    scramble_norms(model)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        plain = fuse_repvgg(model)
        # Rounding of float32 grows with the logits, which reach 20 here.
        assert (plain(images) - expected).abs().max() <= 1e-5 * expected.abs().max()
        model.double()
        exact = model(images.double())
        assert (fuse_repvgg(model)(images.double()) - exact).abs().max() <= 1e-10
    convolutions = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(3, 3)] * 22
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules())


def test_fusing_leaves_the_model_itself_alone():
    model = RepVGG("a0", 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse_repvgg(model)
    assert model.training and not fused.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_empty_fused_repvgg_takes_the_weights_of_a_fused_one():
    fused = fuse_repvgg(RepVGG("a0", 10))
    assert layout_of(RepVGG("a0", 10, fused=True)) == layout_of(fused)


# SegFormer: parameters in millions of encoder and decoder on ADE20K (arXiv:2105.15203, table 1).
SEGFORMER_PARAMETERS = {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}
SEGFORMER_SIZES = {
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}
REDUCTIONS, HEADS = (8, 4, 2, 1), (1, 2, 5, 8)


def authors_layout(size: str, classes: int) -> Layout:
    """Names and shapes in the checkpoints of NVlabs/SegFormer."""
    depths, widths, decoder = SEGFORMER_SIZES[size]
    layout: Layout = {}

    def pair(name: str, *shape: int) -> None:
        layout.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    inputs = 3
    for s, (depth, width, reduction) in enumerate(zip(depths, widths, REDUCTIONS, strict=True), 1):
        kernel = 7 if s == 1 else 3
        pair(f"backbone.patch_embed{s}.proj", width, inputs, kernel, kernel)
        pair(f"backbone.patch_embed{s}.norm", width)
        for block in range(depth):
            name = f"backbone.block{s}.{block}"
            pair(f"{name}.norm1", width)
            pair(f"{name}.attn.q", width, width)
            pair(f"{name}.attn.kv", 2 * width, width)
            pair(f"{name}.attn.proj", width, width)
            if reduction > 1:
                pair(f"{name}.attn.sr", width, width, reduction, reduction)
                pair(f"{name}.attn.norm", width)
            pair(f"{name}.norm2", width)
            pair(f"{name}.mlp.fc1", 4 * width, width)
            pair(f"{name}.mlp.dwconv.dwconv", 4 * width, 1, 3, 3)
            pair(f"{name}.mlp.fc2", width, 4 * width)
        pair(f"backbone.norm{s}", width)
        pair(f"decode_head.linear_c{s}.proj", decoder, width)
        inputs = width
    pair("decode_head.conv_seg", classes, 128, 1, 1)
    layout |= conv("decode_head.linear_fuse.conv", decoder, 4 * decoder, 1)
    layout |= norm("decode_head.linear_fuse.bn", decoder)
    pair("decode_head.linear_pred", classes, decoder, 1, 1)
    return layout


def random_authors_state(size: str, classes: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = {}
    for key, shape in authors_layout(size, classes).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
            continue
        value = torch.randn(shape, generator=generator) * 0.1
        if key.endswith("running_var") or (".norm" in key and key.endswith("weight")):
            value = value + 1
        state[key] = value
    return state


def authors_forward(state: dict[str, Tensor], size: str, images: Tensor) -> Tensor:
    """SegFormer as its paper describes it, on the authors' names of its weights."""

    def pair(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def layer_norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], *pair(name), eps=1e-6)

    def tokens(x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)

    def attention(x: Tensor, name: str, h: int, w: int, stage: int) -> Tensor:
        batch, count, width = x.shape
        heads, reduction = HEADS[stage], REDUCTIONS[stage]
        query = functional.linear(x, *pair(f"{name}.q")).reshape(batch, count, heads, -1)
        if reduction > 1:
            image = x.transpose(1, 2).reshape(batch, width, h, w)
            image = functional.conv2d(image, *pair(f"{name}.sr"), stride=reduction)
            x = layer_norm(tokens(image), f"{name}.norm")
        both = functional.linear(x, *pair(f"{name}.kv")).reshape(
            batch, -1, 2, heads, width // heads
        )
        key, value = both[:, :, 0], both[:, :, 1]
        scores = torch.einsum("bnhd,bmhd->bhnm", query, key) / (width // heads) ** 0.5
        mixed = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), value)
        return functional.linear(mixed.reshape(batch, count, width), *pair(f"{name}.proj"))

    def feed_forward(x: Tensor, name: str, h: int, w: int) -> Tensor:
        x = functional.linear(x, *pair(f"{name}.fc1"))
        image = x.transpose(1, 2).reshape(len(x), -1, h, w)
        image = functional.conv2d(
            image, *pair(f"{name}.dwconv.dwconv"), padding=1, groups=image.shape[1]
        )
        return functional.linear(functional.gelu(tokens(image)), *pair(f"{name}.fc2"))

    maps, image = [], images
    for stage, depth in enumerate(SEGFORMER_SIZES[size][0]):
        kernel, stride = (7, 4) if stage == 0 else (3, 2)
        embed = f"backbone.patch_embed{stage + 1}"
        image = functional.conv2d(image, *pair(f"{embed}.proj"), stride=stride, padding=kernel // 2)
        h, w = image.shape[2:]
        x = layer_norm(tokens(image), f"{embed}.norm")
        for block in range(depth):
            name = f"backbone.block{stage + 1}.{block}"
            x = x + attention(layer_norm(x, f"{name}.norm1"), f"{name}.attn", h, w, stage)
            x = x + feed_forward(layer_norm(x, f"{name}.norm2"), f"{name}.mlp", h, w)
        x = layer_norm(x, f"backbone.norm{stage + 1}")
        image = x.transpose(1, 2).reshape(len(x), -1, h, w)
        maps.append(image)
    projected = []
    for stage in (3, 2, 1, 0):
        x = functional.linear(tokens(maps[stage]), *pair(f"decode_head.linear_c{stage + 1}.proj"))
        x = x.transpose(1, 2).reshape(len(x), -1, *maps[stage].shape[2:])
        projected.append(functional.interpolate(x, maps[0].shape[2:], mode="bilinear"))
    fuse = "decode_head.linear_fuse"
    x = functional.conv2d(torch.cat(projected, 1), state[f"{fuse}.conv.weight"])
    mean, variance = state[f"{fuse}.bn.running_mean"], state[f"{fuse}.bn.running_var"]
    x = functional.batch_norm(x, mean, variance, *pair(f"{fuse}.bn"))
    return functional.conv2d(x.relu(), *pair("decode_head.linear_pred"))


@pytest.mark.parametrize("size", SEGFORMER_PARAMETERS)
def test_segformer_has_the_papers_parameters(size):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.SegformerForSemanticSegmentation(segformer.segformer_config(size, 150))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(SEGFORMER_PARAMETERS[size], abs=0.1)


@pytest.mark.parametrize("size", SEGFORMER_SIZES)
def test_size_is_read_off_a_checkpoint_of_the_authors(size):
    state = {k: torch.empty(s, device="meta") for k, s in authors_layout(size, 19).items()}
    assert segformer.is_original_layout(state)
    assert segformer.size_of(state) == size


def test_a_checkpoint_of_no_known_size_is_refused():
    state = {f"block1.{block}.norm1.weight": torch.ones(32) for block in range(5)}
    with pytest.raises(ValueError, match=r"\[5, 0, 0, 0\] blocks"):
        segformer.size_of(state)


def test_converted_segformer_computes_what_its_authors_describe(tmp_path):
    pytest.importorskip("transformers")
    from vision_bench.models.load import load_model

    state = random_authors_state("b0", 19)
    path = tmp_path / "segformer.b0.1024x1024.city.160k.pth"
    torch.save({"meta": {"CLASSES": ("road", "car")}, "state_dict": state}, path)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = authors_forward(state, "b0", images)
        by_file = load_model(str(path)).module(images)
        by_name = load_model("segformer-b0", weights=path).module(images)
    assert expected.shape == (2, 19, 16, 24)
    torch.testing.assert_close(by_file, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(by_file, by_name)


def test_conversion_inverts_to_the_authors_names(tmp_path):
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    model = transformers.SegformerForSemanticSegmentation(segformer.segformer_config("b0", 7))
    model.save_pretrained(tmp_path)
    published = load_file(tmp_path / "model.safetensors")
    converted = segformer.convert_original_keys(random_authors_state("b0", 7))
    shapes = {key: value.shape for key, value in converted.items()}
    assert shapes == {key: value.shape for key, value in published.items()}


def test_a_bare_encoder_converts_as_the_whole_model_does():
    whole = random_authors_state("b0", 7)
    bare = {k.removeprefix("backbone."): v for k, v in whole.items() if k.startswith("backbone.")}
    bare["head.weight"] = torch.zeros(1000, 256)
    converted = segformer.convert_original_keys(bare)
    reference = segformer.convert_original_keys(whole)
    assert converted.keys() == {key for key in reference if key.startswith("segformer.")}


def efficientnet_pytorch_keys() -> list[str]:
    """Key names of EfficientNet-PyTorch's EfficientNet-Lite0, in the order of its layers."""
    layers = ["_conv_stem", "_bn0", "_blocks.0._depthwise_conv", "_blocks.0._bn1"]
    layers += ["_blocks.0._project_conv", "_blocks.0._bn2"]
    for block in range(1, 16):
        names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
        layers += [f"_blocks.{block}.{name}" for name in names]
    keys = []
    for layer in [*layers, "_conv_head", "_bn1"]:
        keys += list(norm(layer, 1)) if "_bn" in layer else [f"{layer}.weight"]
    return [*keys, "_fc.weight", "_fc.bias"]


def test_efficientnet_lite_keys_follow_the_order_of_timms_layers():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        expected = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    state = {key: torch.zeros(()) for key in efficientnet_pytorch_keys()}
    assert len(state) == 296
    assert list(efficientnet_lite.convert_to_timm_keys(state)) == expected


def test_a_key_of_another_efficientnet_keeps_its_name():
    state = {"_blocks.40._bn1.weight": torch.zeros(1), "_blocks.3._se_reduce.bias": torch.zeros(1)}
    assert efficientnet_lite.convert_to_timm_keys(state).keys() == state.keys()
