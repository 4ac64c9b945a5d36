"""Ways to learn maps, each in a file of its own."""
