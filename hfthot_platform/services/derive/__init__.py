"""Tables that are computed from others, in which a vendor's statement takes precedence."""
