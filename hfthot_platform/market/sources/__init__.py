"""Adapters that turn vendors' data into canonical rows.

Files: `binance_archive`, `binance_stream`, `csv` and `freqtrade` recognise a file by its content.  Feeds:
`sample`, `simulated`, `ccxt_exchange` and `binance_archive`'s download fetch a span of time.  What is common
to them is in `base`; which table rows go to is decided here, how they are published is not.
"""
