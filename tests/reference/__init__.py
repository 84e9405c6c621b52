"""Slow, literal NumPy twins of the rules, written from the papers and not from the library."""
