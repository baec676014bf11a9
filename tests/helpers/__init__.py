"""What several test files share: servers, stand-ins, recordings of requests."""
