"""Weights in every published form: load, map, convert, export."""
