"""How much each neuron matters to what a network predicts, by attributors of the literature."""
