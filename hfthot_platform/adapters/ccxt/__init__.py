"""Exchanges' REST interfaces through the ccxt library."""
