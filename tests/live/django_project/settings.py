"""Its settings; the inventory is in the environment, since each test has another cluster at the same path."""

from __future__ import annotations

import json
import os

from replctl.adapters.django import databases

SECRET_KEY = "django-project-of-the-live-tests"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.live.django_project.views"
INSTALLED_APPS = ["replctl.adapters.django", "tests.live.django_project"]
MIDDLEWARE = ["replctl.adapters.django.ReadYourWrites"]
DATABASE_ROUTERS = ["replctl.adapters.django.Router"]
DATABASES = databases(
    os.environ["DJANGO_PROJECT_INVENTORY"],
    interval_s=0.3,
    NAME="postgres",
    USER="postgres",
    **json.loads(os.environ.get("DJANGO_PROJECT_DATABASE", "{}")),
)
