"""Protocols that score frozen features: one protocol a file, each with a `run()` that yields (metric, value).

A protocol is given a backbone or features, never a method, so that any network can be scored in the same way.
"""
