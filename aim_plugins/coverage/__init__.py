"""What a set of inputs exercises of a network, and what it leaves untested."""
