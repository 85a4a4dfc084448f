"""What /docs says of requests and answers."""
