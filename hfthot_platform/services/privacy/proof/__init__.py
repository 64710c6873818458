"""The proof engine: searches everything that is kept for given values, and proves that it would have found them.

`scan` is what others call; it knows nothing of persons, accounts or erasures.
"""
