"""What moved between reports: evidence is read, laid side by side, and its changes are counted."""
