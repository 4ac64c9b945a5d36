"""Which defects of a public model its fine-tuned descendants inherit.

Whoever reuses a public model fine-tunes it on data of their own. Images that drive the public
model's features astray often fool the descendant too: it inherits the defect. SeaM first learns
which weights the new problem needs, and fine-tunes only those.

    output_layer   the classifier's last layer: found, replaced, left out
    fine_tuning    gradient descent with the best state on a validation split, and masks that hold
    pruning        masks learned with the output layer until enough weights are gone
    arms           the ways to reuse the model that are compared
    inheritance    the share of right answers that an attack on the public model overturns

Source: Qi et al., "Reusing Deep Neural Network Models through Model Re-engineering" (SeaM),
ICSE 2023, arXiv:2304.00245, section IV-D (RQ3), and `src/defect_inherit` of its code.
"""
