"""Programs for the people who work on Styx. Nothing here is installed, and nothing in the product imports it."""
