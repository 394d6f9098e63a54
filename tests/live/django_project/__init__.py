"""A small Django project on a lab's cluster: what the live tests of the Django adapter run."""
