"""The page that `export.demo` serves, drawn by Bokeh."""
