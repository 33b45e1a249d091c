"""Report pages and tables from what `lila-train run`, `eval` and `ablate` wrote."""
