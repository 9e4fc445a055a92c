"""Does: one public function is one use case, deciding with `core` and remembering with `store`.

May not name a protobuf message, a status code or an HTTP header. What repeats itself lives in `loops`.
Next: `submission.py`, `scheduling.py`, `sessions.py`, `reports.py`, `log_intake.py`, in the order of a task's life.
"""
