"""Trials of recipes in one resumable study, and the choice among them."""
