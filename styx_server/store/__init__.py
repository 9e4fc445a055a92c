"""Remembers. The only room that speaks SQL and the only one that imports the database driver.

Named queries are in `sql/*.sql`, one sentence above each; migrations in `migrations/`, forward only. Rows become domain
values in `rows.py` and nowhere else. May import `core`; knows nothing of protobuf. Next: `database.py`.
"""
