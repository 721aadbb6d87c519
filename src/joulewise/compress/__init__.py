"""Passes that turn a model into a cheaper one; the input is never touched."""
