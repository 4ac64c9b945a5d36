"""`aim-plugins jobs`: many commands as batch jobs, by Slurm, Ray or the machine at hand.

Submitit and Ray queue, place and cancel; this room says what the tasks are, skips those whose
results are there, and merges what they found.
"""
