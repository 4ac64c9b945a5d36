"""SmolLM2-135M-Instruct, the model that `aim-plugins demo-model` fetches; runs offline on a CPU.

Pooling, positions, support and causality are each method's own, so that methods can be compared.
"""

pretrained = "demo:smollm2"
modules = [r".*layernorm"]
method = "linear"
dtype = "float32"

fit = dict(batch_size=25, max_length=64)
generate = dict(
    # Beyond 1 the maps extrapolate, and a small model soon falls apart: the curve shows where.
    strength="0:2:0.25",
    max_new_tokens=24,
    batch_size=32,
    do_sample=True,
    seed=0,
)
