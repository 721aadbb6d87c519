"""Real models and real items from pinned packages, for tests that take minutes."""
