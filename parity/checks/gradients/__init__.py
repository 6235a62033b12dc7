"""Compare the gradient of every tap and every parameter."""
