"""Generated wire code; made from `protos/` by the build, never edited, never committed."""
