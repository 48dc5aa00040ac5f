"""Training: the loop, what it needs of a model, the mixture, and the recipe of the built-in model."""
