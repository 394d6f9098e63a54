"""A simulated cluster under the real core and the real loop: one seed fixes everything that happens."""
