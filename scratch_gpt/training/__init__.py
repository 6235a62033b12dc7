"""Training: from a recipe to a model, through checkpoints that survive whatever happens."""
