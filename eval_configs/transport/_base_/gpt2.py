"""GPT-2: both norms of every block, and the last one."""

pretrained = "gpt2"
modules = [r".+ln_.+"]
