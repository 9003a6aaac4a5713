"""Phenotypes of megakaryocytes: clusters, how many, and their names."""
