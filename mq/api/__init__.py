"""What users hold: broker, queue, transaction, message, options."""
