"""The demo's ResNet-20 of Fashion-MNIST, reused for scikit-learn's digits: what it inherits.

    vision-bench reengineer defects eval_configs/vision/reengineering/demo_defects.py

The first run trains the public model; see `vision-bench demo-models`. Without Fashion-MNIST that is
a model of digits too, and the target is what it knows already.

Training is so short that the outcome turns with its settings: the difference between SeaM and
standard fine-tuning was -11, -5 and +8 points in three that were tried. It shows what is measured
and how far that goes, not whether SeaM helps.
"""

model = "resnet20"
weights = "demo:resnet20"
pretrained_on = "demo:dataset"
# Digits of 8 x 8 pixels are enlarged to the size of Fashion-MNIST; the normalisation is what the
# model was trained with.
preprocessing = dict(size=28, mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010])

dataset = "digits"
limit = 300
batch_size = 100

# Enough for the demo: a few epochs instead of 300. In so few steps masks move only if the penalty
# does not vanish beside the cross-entropy, hence alpha; and the attack is three times as strong, as
# digits are drawn in strong contrast.
arms = ["standard", "seam", "random", "retrain"]
train_limit = 500
train_batch_size = 32
n_epochs = 6
early_stop = 3
lr_mask = 0.15
alpha = 30.0
momentum = 0.9
momentum_retrain = 0.9
augment = "none"
eps = 0.3
eps_iter = 0.04
nb_iter = 15
output = "runs/demo-reengineer/defects"
