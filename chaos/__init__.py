"""The drill: faults on the real stack, a load with its own ledger, and a checker that reads everything afterwards."""
