"""Coverage of the demo's ResNet-20 by the test images of its data set."""

dataset = "demo:dataset"
data_root = "demo:data-root"
model = "resnet20"
weights = "demo:resnet20"
# What it was trained with: images keep their size, and have the normalisation of CIFAR-10.
preprocessing = dict(size=None, mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010])

end2end = True
layer_by_layer = True
all_class = True
