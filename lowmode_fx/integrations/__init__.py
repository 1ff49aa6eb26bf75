"""Integrations with Lightning, Accelerate, transformers and timm: thin adapters, imported only when used."""
