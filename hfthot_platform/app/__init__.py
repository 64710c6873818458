"""The installation: the one place where settings and clock become lake, store, accounts, models, pool and feeds."""
