"""Architectures whose published checkpoints no installed library loads under their own names.

- `cifar`: ResNet, VGG, MobileNetV2 and ShuffleNetV2 for 32×32 images;
- `repvgg`: RepVGG for 32×32 images, and its fusion;
- `segformer`: SegFormer B0 to B5, and the layout of its authors;
- `efficientnet_lite`: EfficientNet-Lite under timm's names;
- `lenet`: LeNet-5 for grey images of 28×28 pixels.
"""
