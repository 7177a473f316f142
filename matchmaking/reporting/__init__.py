"""What a run leaves for people and programs: `report` writes summary.json, pages and plots, and closes the record."""
