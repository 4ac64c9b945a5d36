"""SmolLM2-135M-Instruct steered towards joy, at eleven strengths: minutes on a CPU, no network.

    make demo-act                                               once, fits the transport
    opencompass eval_configs/opencompass/eval_act_demo.py

Asks for countries by perplexity, for continents by generation, and for capitals in a chat, so that
the curves show what steering costs: fewer continents are right, and answers in a chat grow wordy,
some of them wrong, until none matches exactly. The results go to runs/opencompass_act_demo/TIME/:
the usual folders, and summary/sweep/*/report.html.
"""

from mmengine.config import read_base

from aim_plugins.harnesses.opencompass import HuggingFaceAcTChatModel, HuggingFaceAcTModel

with read_base():
    from aim_plugins.harnesses.opencompass.sweep import eval, infer, summarizer

work_dir = "runs/opencompass_act_demo"
# One task uses all cores of a CPU; two at once would only hinder each other.
infer["runner"]["max_num_workers"] = 1

# In a config an imported function cannot be called, but what __import__ returns can.
path = str(__import__("aim_plugins.demo_model").demo_model.demo_model_folder())
data = str(__import__("pathlib").Path(__file__).resolve().parent / "data")

base_models = []
chat_models = []
for x in range(11):
    common = dict(
        path=path,
        model_kwargs=dict(torch_dtype="torch.float32"),
        transport="runs/demo-act/sentiment/transports/linear-all",
        strength=x / 10,
        batch_size=16,
        run_cfg=dict(num_gpus=0),
    )
    base_models.append(
        dict(
            type=HuggingFaceAcTModel,
            abbr=f"smollm2-135m-act{x / 10}",
            max_out_len=4,
            stop_words=["\n"],
            **common,
        )
    )
    chat_models.append(
        dict(
            type=HuggingFaceAcTChatModel,
            abbr=f"smollm2-135m-chat-act{x / 10}",
            max_out_len=16,
            **common,
        )
    )

choice_datasets = [
    dict(
        abbr="continents",
        path=f"{data}/continents.jsonl",
        data_type="mcq",
        infer_method="gen",
        template="Question: On which continent is Kenya?\nAnswer: Africa\n\n"
        "Question: On which continent is Brazil?\nAnswer: America\n\n"
        "Question: On which continent is Japan?\nAnswer: Asia\n\n"
        "Question: On which continent is Norway?\nAnswer: Europe\n\n"
        "Question: On which continent is {country}?\nAnswer:",
    ),
    dict(
        abbr="capitals",
        path=f"{data}/capitals.jsonl",
        data_type="mcq",
        infer_method="ppl",
        template=dict(
            A="The city of {capital} is the capital of {A}",
            B="The city of {capital} is the capital of {B}",
            C="The city of {capital} is the capital of {C}",
            D="The city of {capital} is the capital of {D}",
        ),
    ),
]
chat_datasets = [dict(abbr="questions", path=f"{data}/questions.jsonl", data_type="qa")]

models = base_models + chat_models
datasets = choice_datasets + chat_datasets
# A chat model cannot be asked for perplexities.
model_dataset_combinations = [
    dict(models=base_models, datasets=choice_datasets),
    dict(models=chat_models, datasets=chat_datasets),
]
