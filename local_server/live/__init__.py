"""Live speech over WebSockets: sessions, and the protocols that clients speak."""
