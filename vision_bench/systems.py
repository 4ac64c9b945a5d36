"""Every system of `vision-bench`, a line each: its words, what it is for, and who runs it."""

from __future__ import annotations

from aim_plugins.core.commands import System

SYSTEMS = (
    System(
        "classify",
        "a classifier's accuracy, calibration and entropy against noise strength",
        "vision_bench.classification.commands:classify",
    ),
    System(
        "classify-logits",
        "the same from logits cached elsewhere",
        "vision_bench.classification.commands:classify_logits",
    ),
    System(
        "segment evaluate",
        "IoU, recall, precision and F1 of classes against noise strength",
        "vision_bench.segmentation.commands:evaluate",
    ),
    System(
        "segment infer",
        "overlays of images at every strength, side by side and as an animation",
        "vision_bench.segmentation.commands:infer",
    ),
    System(
        "top-classes",
        "an ImageNet classifier's answers to photographs, which need no labels",
        "vision_bench.classification.commands:top_classes",
    ),
    System(
        "coverage run",
        "what a test suite exercises of a classifier, and what it leaves untested",
        "vision_bench.coverage.commands:run",
    ),
    System(
        "coverage importance",
        "whether the neurons that attributors find matter more than random ones",
        "vision_bench.coverage.commands:importance",
    ),
    System(
        "coverage diversity",
        "what noise on important pixels adds to coverage, and what real images add",
        "vision_bench.coverage.questions.commands:diversity",
    ),
    System(
        "coverage sensitivity",
        "whether coverage notices inputs that are replaced by attacked ones",
        "vision_bench.coverage.questions.commands:sensitivity",
    ),
    System(
        "coverage correlation",
        "whether suites of more coverage are more even, or find more mistakes",
        "vision_bench.coverage.questions.commands:correlation",
    ),
    System(
        "coverage overhead",
        "what measuring coverage costs beside running the model",
        "vision_bench.coverage.questions.commands:overhead",
    ),
    System(
        "coverage combine",
        "what parts of a suite, measured apart, exercise together",
        "vision_bench.coverage.commands:combine",
    ),
    System(
        "coverage sweep",
        "coverage against the strength of noise on the logits or of a transport",
        "vision_bench.coverage.commands:sweep",
    ),
    System(
        "reengineer run",
        "a smaller classifier for the classes that are needed, and what it is worth",
        "vision_bench.reengineering.commands:run",
    ),
    System(
        "reengineer compose",
        "one classifier of several modules, and which weights or channels they share",
        "vision_bench.reengineering.commands:compose",
    ),
    System(
        "reengineer defects",
        "which defects of a public classifier those that are fine-tuned from it inherit",
        "vision_bench.reengineering.defects.commands:defects",
    ),
    System(
        "attribute init",
        "a config to attribute a classifier's answers to its components",
        "vision_bench.attribution.commands:init",
    ),
    System(
        "attribute build",
        "the outputs of a classifier while random components are ablated",
        "vision_bench.attribution.commands:build",
    ),
    System(
        "attribute merge",
        "one component dataset of shards that were built apart",
        "vision_bench.attribution.commands:merge",
    ),
    System(
        "attribute fit",
        "what each component adds to each image's output",
        "vision_bench.attribution.commands:fit",
    ),
    System(
        "attribute import",
        "attributions that COAR's authors published, or their code has written",
        "vision_bench.attribution.commands:take",
    ),
    System(
        "attribute evaluate",
        "how well attributions predict ablations, beside four other methods",
        "vision_bench.attribution.commands:evaluate",
    ),
    System(
        "attribute run",
        "build, fit and evaluate in one go",
        "vision_bench.attribution.commands:run",
    ),
    System(
        "attribute edit",
        "ablate the components that some images need, or that harm them, and measure the rest",
        "vision_bench.attribution.editing.commands:edit",
    ),
    System(
        "images fit",
        "a transport of a text-to-image pipeline from two files of prompts",
        "vision_bench.text_to_image.commands:fit",
        needs={"diffusers": "images"},
    ),
    System(
        "images show",
        "what a transport of a pipeline does, in numbers",
        "vision_bench.text_to_image.commands:show",
        needs={"diffusers": "images"},
    ),
    System(
        "images generate",
        "images of prompts at every strength of a transport, side by side and as animations",
        "vision_bench.text_to_image.commands:generate",
        needs={"diffusers": "images"},
    ),
    System(
        "images evaluate",
        "how much of its effect a transport of a pipeline has at every strength, by a CLIP",
        "vision_bench.text_to_image.commands:evaluate",
        needs={"diffusers": "images"},
    ),
    System(
        "demo-models",
        "train small models once, and print where they lie",
        "vision_bench.demo.command:main",
    ),
)
