"""A recipe on the demo model, with its cost on facts (two tasks of the demo) and on plain text."""

_base_ = "demo.py"

generate = dict(strength="0:1:0.25")
evaluate = dict(tasks=["aim_demo_capitals", "aim_demo_continents"])
