"""Rows that see every key of plain dot products, in as few visits of their logits as torch allows.

`rows` takes any logits, in some 25 visits of each beside the two products. Here it is 17, in two
buffers that stay in the cache, since nothing is hidden and a row keeps one reference r for all its
keys: the sums about r of one range of keys after another are added and never rescaled.

r is the row's maximum m over its first keys, unless the logarithm of the mean exponential that
normal logits of its mean and variance would have, μ + σ²/2, lies so little below it that the other
keys outweigh the largest; then it is that. Both moments are estimated from the operands, and need
not be right: about a bad r sums cancel, which shows in them, and such rows are given back to be
computed by the general way.

Everything is of halved logits, exactly: with e = exp((s − r)/2), the norms of e², e³ and e·(s − r)
are the sums of u², u³ and u·(s − r)², where a product and its sum would be two visits. The largest
logit of each range stays out of the sums: the smallest takes its place meanwhile, and is taken off
in float64.

Mean and variance are summed about 0 while the keys' mean is moderate, else about r too: where one
key stands out, all others are far from r.
"""
