"""Two hosts: network namespaces of this machine, joined by a cable, with nothing else in common but what is declared.

`make scale` (`python -m tests.scale`) makes them and runs these tests in the first one.
"""
