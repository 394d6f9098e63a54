"""The only place that asks servers for facts or acts on them."""
