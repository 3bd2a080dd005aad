"""The parts of the gateway: supervised engines, the pool of models, keys, limits and the ledger."""
