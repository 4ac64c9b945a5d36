"""SmolLM2-135M-Instruct, the model that `aim-plugins demo-model` fetches; runs offline on a CPU."""

_base_ = "linear_act.py"

pretrained = "demo:smollm2"
modules = [r".*layernorm"]
support = "none"
dtype = "float32"

fit = dict(batch_size=25, max_length=64)
generate = dict(
    # Beyond 1 the maps extrapolate, and a small model soon falls apart: the curve shows where.
    strength="0:2:0.2",
    max_new_tokens=32,
    do_sample=True,
    seed=0,
)
