"""The page served by `export.demo`, made with Bokeh."""
