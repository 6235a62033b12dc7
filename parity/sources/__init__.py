"""Where weights come from: one module for each form, and `names` for what a name stands for."""
