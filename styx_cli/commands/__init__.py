"""One module for each word of the command line; each has a `command`. They import one another never."""
