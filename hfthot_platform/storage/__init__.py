"""What outlives a process: the lakehouse, the operational store, keys, incidents.

What does not belong here: the outside world (`adapters`) and what the platform does with what is stored (`services`).
"""
