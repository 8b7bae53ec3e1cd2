"""What a run came to: tables, figures and one page."""
