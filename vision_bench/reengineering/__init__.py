"""SeaM: a trained classifier, re-engineered to the classes that are needed."""
