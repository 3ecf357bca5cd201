"""Metering: the fluent call, its hold and settlement, usage events, and what is asked of them."""
