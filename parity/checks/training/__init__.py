"""Compare optimizer steps: losses, gradients, moments and weights."""
