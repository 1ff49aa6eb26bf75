"""The corpus: one small module a habit of writing models, each trained beside itself without the product."""
