"""What people and programs use: client, command line, demonstration, doctor.

An interface translates, asks for permission, calls and translates back; no rule of the business is here.
"""
