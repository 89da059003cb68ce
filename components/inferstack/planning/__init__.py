"""Pure planning: catalogues, fit, cost, quota, timeout chain. No I/O, no Pulumi."""
