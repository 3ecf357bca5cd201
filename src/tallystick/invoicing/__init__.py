"""What is to be charged: overage."""
