"""`aim-plugins attribute`: which heads and neurons of a causal model a task rests on."""
