"""Training: from a recipe to a model, with checkpoints from which a run resumes bitwise."""
