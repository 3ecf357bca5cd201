"""Small scenarios, written to files as people write them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SHOP", "written"]

# Two customers who pay for what is beyond their plan, and one who is refused it; three calendar months.
SHOP = """
[scenario]
name = "A shop"
start = 2026-01-01
months = 3
seed = 5

[plans.free]
monthly_token_limit = 20_000
overage_behavior = "block"

[plans.pro]
price = "10 USD"
monthly_token_limit = 100_000
overage_behavior = "charge"
overage_price_per_1k_tokens = "0.01 USD"

[plans.pro.usage_prices.message]
model = "graduated"
tiers = [{up_to = 50, price = "0"}, {price = "0.02"}]

[plans.team]
price = "31 USD"

[coupons.HALF]
percent_off = 50
duration = "once"

[[customers]]
name = "pro-{n}"
count = 2
plan = "pro"
calls_per_day = "poisson:6"
resources = {message = "poisson:3"}

[[customers]]
name = "user:free"
plan = "free"
calls_per_day = "poisson:3"
"""


def written(folder: Path, text: str = SHOP, *, more: str = "") -> Path:
    """Write a scenario, and return its file."""
    file = folder / "scenario.toml"
    file.write_text(text + more, encoding="utf-8")
    return file
