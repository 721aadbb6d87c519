"""Nouns, units, statistics, records, registry, errors and the host fingerprint."""
