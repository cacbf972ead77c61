"""The foreground server: starts Ray and the application, and ends every process that it started."""
