"""SmolLM2-135M-Instruct, the model that `aim-plugins demo-model` fetches; runs offline on a CPU.

Pooling, positions, support and causality are each method's own, so that methods can be compared.
"""

pretrained = "demo:smollm2"
modules = [r".*layernorm"]
method = "linear"
dtype = "float32"

fit = dict(batch_size=25, max_length=64)
generate = dict(
    # A small model soon falls apart, under causal maps below 1, under added vectors beyond: the
    # curve shows where.
    strength="0,0.125,0.25,0.375,0.5,0.625,0.75,1,2",
    max_new_tokens=24,
    batch_size=32,
    do_sample=True,
    seed=0,
)
calibrate = dict(
    # Those that docs/steering.md has figures of.
    methods=["linear", "gaussian", "mean", "aura", "actadd", "caa", "iti", "pca"],
    layers=[r"model\.layers\.\d+"],
    samples=2,
    batch_size=16,
)
