"""The foreground server: starts Ray and the application, and ends every process it started."""
