"""Models to graphs: front ends (fx, export), tried in order, and which of a model's inputs are images."""
