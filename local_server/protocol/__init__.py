"""The connections of the HTTP server, and how requests are read from them."""
