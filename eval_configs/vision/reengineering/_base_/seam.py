"""What the settings of SeaM have in common (arXiv:2304.00245 and the defaults of its code)."""

lr_head = 0.1
n_epochs = 300
baseline = "whole"  # as the paper selects; the report has the restricted one beside it
