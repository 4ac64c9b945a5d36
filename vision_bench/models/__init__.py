"""Vision models by name, from files: torchvision, timm, SegFormer, pytorch-cifar, any module."""
