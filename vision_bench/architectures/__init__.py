"""Architectures whose published checkpoints no installed library loads under their own names.

- `vision_bench.architectures.cifar`: ResNet, VGG, MobileNetV2 and ShuffleNetV2 for 32×32 images;
- `vision_bench.architectures.repvgg`: RepVGG for 32×32 images, and its fusion;
- `vision_bench.architectures.segformer`: SegFormer B0 to B5, and the layout of its authors;
- `vision_bench.architectures.efficientnet_lite`: EfficientNet-Lite under timm's names.
"""
