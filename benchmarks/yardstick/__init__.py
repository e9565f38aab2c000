"""What ways of keeping a model are worth, on streams with their real delays: see `benchmarks.closed_loop`."""
