"""Credits: wallets, grants, burn-down and the ledger that proves them."""
