"""Gradients of both sides: where they are compared, how they are had, and how they go wrong."""
