"""Where and how the work runs: Dask clusters, ledger, devices, provenance, progress."""
