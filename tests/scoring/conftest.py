"""A place with a folder to score and a table, for all modules here."""

from test_scoring import place

__all__ = ["place"]
