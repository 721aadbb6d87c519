"""Joules of running programs, with sensor, grade and interval."""
