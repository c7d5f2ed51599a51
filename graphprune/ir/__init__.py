"""The graph as a value: types, contract, plan, lineage, printing, verification."""
