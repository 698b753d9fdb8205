"""Statistics of classifiers, measures of infills, and the reports that show them."""
