"""Notifications to customers, outbound webhooks, and the outbox through which both are delivered."""

from tallystick.notify.channels import Channel, DeliveryFailed, OutgoingNotification
from tallystick.notify.signature import verify_webhook

__all__ = ["Channel", "DeliveryFailed", "OutgoingNotification", "verify_webhook"]
