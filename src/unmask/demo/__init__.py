"""The demo: the small base that ships learns to answer questions about tables, and the story of it."""
