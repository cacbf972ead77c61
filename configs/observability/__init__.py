"""What a Prometheus and a Grafana need: a dashboard, alerts, and where to scrape."""
