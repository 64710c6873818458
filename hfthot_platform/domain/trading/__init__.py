"""Trading: what a strategy is told and what it may ask for.

Pure: no clock, no network, no disk.  The backtest runs strategies of this port on recorded bars; an engine that trades
runs the same objects on what happens now.
"""
