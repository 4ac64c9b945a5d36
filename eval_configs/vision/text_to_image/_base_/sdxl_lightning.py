"""SDXL-Lightning in four steps: all norms of its UNet, which is what `modules` is by default.

It is published as the UNet alone; save it as a pipeline once:

    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file

    base = "stabilityai/stable-diffusion-xl-base-1.0"
    config = UNet2DConditionModel.load_config(base, subfolder="unet")
    unet = UNet2DConditionModel.from_config(config)
    file = hf_hub_download("ByteDance/SDXL-Lightning", "sdxl_lightning_4step_unet.safetensors")
    unet.load_state_dict(load_file(file))
    pipe = StableDiffusionXLPipeline.from_pretrained(
        base, unet=unet.to(torch.float16), torch_dtype=torch.float16, variant="fp16"
    )
    pipe.scheduler = EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    pipe.save_pretrained("models/sdxl-lightning")
"""

pipeline = "models/sdxl-lightning"
dtype = "float16"
num_inference_steps = 4
guidance_scale = 0.0
height = width = 1024
batch_size = 8
