"""The strength that spends a budget of quality, for every method, held against a prompt.

- `costs`: what a changed model costs on plain text: KL of its next-token distributions, and loss.
- `questions`: the answers of a changed model to a task, whose accuracy the budget may be of.
- `search`, `step_search`: the strength whose cost meets a budget, smooth or a noisy step function.
- `budgets`: what the budget is of, and the strengths that spend it.
- `sites`, `screen`: where methods may act, and what each place promises, from one backward pass.
- `prompting`: instructions and examples, the rivals of steering.
- `candidates`: methods at choices of sites, learned once and kept.
- `choosing`, `reporting`: sites on one half of everything, effect and cost on the other.
- `halves`: the part that strengths and sites are chosen on, and the part that reports.
- `entries`: a line of the table, and how it is measured.
- `verdicts`: paired differences, in words, with the number of prompts that would be needed.
- `replays`: how often equally good lines are told apart.
- `study`, `findings`, `front`, `pictures`: one calibration, from its settings to its report.
"""
