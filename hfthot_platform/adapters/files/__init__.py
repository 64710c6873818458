"""Formats of files: tables as text or columns, with what their users declare of them."""
