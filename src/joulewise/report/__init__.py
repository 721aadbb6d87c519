"""What people and programs read: verdict, HTML page, model card. Reads records only."""
