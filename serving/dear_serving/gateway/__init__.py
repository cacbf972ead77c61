"""The gateway process: takes a rerank request through admission, ranking and the engines. No HTTP here."""
