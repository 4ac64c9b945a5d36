"""`vision-bench coverage run`: every criterion of a suite, from one pass of the model.

OUTPUT/
  coverage.json     every value with its ceiling and random suites, for programs
  coverage.csv      the same as a table, with layers and classes
  uncovered.csv     combinations that training inputs reach and the suite does not
  priority.csv      inputs worth labelling first, where asked for
  curves/           pictures
  report.html
  manifest.json
  reference/        what the criteria know of the training set
  profile/          what the suite has exercised; `coverage combine` joins those of parts
  records/          finished steps, from which a killed run goes on
"""

from __future__ import annotations

REFERENCE = "reference"
