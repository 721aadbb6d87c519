"""Fakes and the contract suites that every back end must pass."""
