"""Utilities for all packages: files, devices, validation, and preserving a model's state."""
