"""What is shown of the loop, read-only and as plain values: command line, pages and API say the same."""
