"""What is sent to a server: key names, requests and scripts; and what a reply means."""
