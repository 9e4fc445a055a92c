"""Shows: answers browsers, probes and curl on the HTTP port. Uses services, never the store."""
