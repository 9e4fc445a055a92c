"""Migrations: `NNNN_pre_*.sql` runs before the code that needs it rolls out, `NNNN_post_*.sql` after. Forward only."""
