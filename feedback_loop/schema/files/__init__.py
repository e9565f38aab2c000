"""Files and bodies of tables: Parquet, CSV and Arrow as Arrow's tables, within a budget."""
