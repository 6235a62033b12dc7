"""Faster attention and layer operations that compute the same function as the plain model."""
