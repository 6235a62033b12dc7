"""Does the cached generator give what the uncached model and the reference give?"""
