"""What a transport does to a model: its effect on texts, and what that costs, against strength.

- `texts`: what the steered model writes, at every strength in one batch.
- `perplexity`: of the steered model on plain text, and of its texts under the plain model.
- `concepts`: whether a text shows a concept, by a lexicon or by a judge model.
- `sentiment`: scores of a text classifier, or of VADER offline.
- `repetition`: whether the texts have collapsed.
- `scores`: all of these of one set of texts.
- `tasks`: zero-shot tasks, through lm-evaluation-harness.
- `settings`, `inputs`, `study`: one evaluation, from its options to its report.

Source: the evaluations of arXiv 2410.23054, section 4.
"""
