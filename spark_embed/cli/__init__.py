"""The command and its subcommands, signals and logs; knows what people type, not how it is done."""
