"""Grams of CO2 equivalent for a kilowatt-hour: offline tables, and live services by name only."""
