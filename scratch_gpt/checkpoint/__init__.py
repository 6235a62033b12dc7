"""Model folders: read, check and write weights and config."""
