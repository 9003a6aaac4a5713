"""Megakaryocytes of a trephine: what each is like, how they lie, and what that says of the sample."""
