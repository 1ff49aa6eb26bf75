"""Capture models as graphs: front ends (fx, export, live), tried in order, and which of a model's inputs are images."""
