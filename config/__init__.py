"""The strict model that every settings class is made of."""
