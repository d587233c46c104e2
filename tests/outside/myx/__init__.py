"""A package of a user's own: ten families written against the seams, without an edit of `scaling`."""
