"""The command: embed, emr, status, verify; signals and logs; knows what people type, not how it is done."""
