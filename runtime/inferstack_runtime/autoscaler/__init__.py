"""How many replicas a load needs: policies that decide, a back-test of them, and the process that acts on them (`autoscale`)."""
