"""Time and memory of kernels, models, training and tokenizers, compared with other libraries."""
