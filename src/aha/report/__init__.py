"""Tables, plots and the report page of a run. It reads files only, so that any run, finished or not, can be reported
again."""
