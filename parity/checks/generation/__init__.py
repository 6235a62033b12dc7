"""Compare generated text: greedy, sampled, with logit rules, and by beam search."""
