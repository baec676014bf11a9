"""The ground floor: the strict model of all settings, the table of routes. It imports no other room."""
