"""What decoded tokens tell, whatever model decoded them: words, and repetition."""
