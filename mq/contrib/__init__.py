"""Task libraries on mq, one module each.  Nothing else in mq imports them."""
