"""Use of a trained generator: export, serving, whole films. Installed as `cigan_export`."""
