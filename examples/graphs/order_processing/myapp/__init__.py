"""Order processing: contracts, handlers, services and the application."""
