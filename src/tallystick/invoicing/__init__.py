"""What customers are billed: charges that wait, invoices, payments, credit notes, coupons, overage."""
