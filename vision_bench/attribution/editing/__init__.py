"""Editing a classifier by its components: which few of them to ablate, and what that is worth.

Components that matter to some images, the targets, more than to others, the references, are found
by their attributions and ablated: to lower the targets' margins those that they need most, to raise
them those that harm them.

    split        images that are attributed and select, apart from those that are tested
    problems     what is to change and what is to stay: classes, images, a backdoor, groups
    goal         what an edit is judged by
    answers      what a model answers under every edit, from one reading of the images
    last_layer   the rival: fine-tuning of the last layer with the same images
    choice       how many components, chosen on images that are not tested

Source: Shah, Ilyas and Madry, "Decomposing and Editing Predictions by Modeling Model Computation",
ICML 2024, arXiv:2404.11534, section 5 (COAR-Edit).
"""
