"""A trained generator in use: exported, served, and in whole films. Installed as `cigan_export`."""
