"""What the pipeline decides and shows: gates, the comment on a pull request, bills of materials, short-lived stacks."""
