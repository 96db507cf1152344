"""PaSeR: a policy that spends large networks only on the patches where they pay (arXiv 2402.11760)."""
