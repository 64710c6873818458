"""Personal data: keys and encryption, export, erasure, retention, and proof.

`vault` is the lowest module and knows neither the store nor the lake; everything else here stands above
`accounts`.  Nothing here knows Dagster.
"""
