"""Authors, articles, and the tags that articles have."""

from __future__ import annotations

from django.db import models


class Author(models.Model):
    """Whom a foreign key leads to."""

    name = models.TextField(unique=True)

    class Meta:
        """Without migrations: made by run_syncdb."""

        app_label = "django_project"


class Tag(models.Model):
    """What articles have many of."""

    name = models.TextField(unique=True)

    class Meta:
        """As above."""

        app_label = "django_project"


class Article(models.Model):
    """What is written and read."""

    title = models.TextField(unique=True)
    views = models.IntegerField(default=0)
    author = models.ForeignKey(Author, null=True, on_delete=models.CASCADE)
    tags = models.ManyToManyField(Tag)

    class Meta:
        """As above."""

        app_label = "django_project"
