"""Runtimes that open an artifact, and the processes in which programs run."""
