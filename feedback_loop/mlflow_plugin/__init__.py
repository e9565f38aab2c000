"""MLflow's entry points: what of the loop is reached from MLflow's own commands, evaluation, runs, data and server.

Some of these modules are imported by every process that imports MLflow: nothing heavy is imported at their top, and
none of them reads a configuration before it is asked to do something.
"""
