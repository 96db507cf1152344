"""PatchDrop: a policy on the low-resolution image says which patches to see at high resolution (arXiv 2003.00425)."""
