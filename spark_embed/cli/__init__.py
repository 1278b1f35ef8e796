"""The command: embed, status, verify; signals and logs. Knows what people type, not how it is done."""
