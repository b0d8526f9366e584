"""The model in float64 numpy, one file per op: the judge of the compiled kernels.

Written to be read, and to share nothing with what it judges: no file here calls compiled code of
this package. Letters in shapes: T tokens, S keys, K in-features, N out-features, H query heads,
G key/value heads, D head_dim, E experts, A active experts, I intermediate size, V vocabulary.
"""
