"""Modulation of frozen language models, measured over many strengths.

A *modulation* changes a frozen model at inference; its *strength* is the one scalar that says
how much. The rooms of the package:

- `aim_plugins.modulation`: what is changed (noise on logits, exact laws of the argmax);
- `aim_plugins.sweep`: grids of strengths, resumable results, curves and reports;
- `aim_plugins.engines`: who runs the model;
- `aim_plugins.harnesses`: who asks the questions.

Importing this package imports nothing else: the rooms load torch and the harnesses themselves,
when they are entered.
"""

__version__ = "0.1.0"
