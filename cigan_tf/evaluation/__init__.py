"""Statistics of classifiers, measures of infills, and the pages that show them."""
