"""What decodes windows: the vLLM replica, the way to reach it, and a fake for tests."""
