"""Where people train: Lightning, Accelerate, transformers and timm, a thin adapter each, imported only when used."""
