"""Named queries, one file for each group of tables."""
