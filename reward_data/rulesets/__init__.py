"""Shipped anatomical rule sets (YAML)."""
