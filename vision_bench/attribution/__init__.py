"""Attribution of a classifier's answers to its components, and edits by it."""
