"""The demo's ResNet-20 of Fashion-MNIST, reused for scikit-learn's digits: what it inherits.

    vision-bench reengineer defects eval_configs/vision/reengineering/demo_defects.py

The first run trains the public model; see `vision-bench demo-models`. Without Fashion-MNIST that is
a model of digits too, and the target is what it knows already.
"""

model = "resnet20"
weights = "demo:resnet20"
pretrained_on = "demo:dataset"
# Digits of 8 x 8 pixels are enlarged to the size of Fashion-MNIST; the normalisation is what the
# model was trained with.
preprocessing = dict(size=28, mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010])

dataset = "digits"
limit = 400
batch_size = 100

# Enough for the demo; the settings' defaults are those of the paper.
n_epochs = 8
early_stop = 4
train_limit = 600
output = "runs/demo-reengineering/defects"
