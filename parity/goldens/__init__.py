"""What our model gives where others published what the released weights gave them."""
