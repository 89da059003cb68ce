"""How many replicas a load needs: policies that decide, and a back-test that shows what each would have cost. Pure."""
