"""Its views, sync and async: each answers with the alias that it read from."""

from __future__ import annotations

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from replctl.adapters.django import read_replica, use_primary
from tests.live.django_project.models import Article


def listed(articles: list[Article]) -> JsonResponse:
    """Their titles, and where they were read."""
    return JsonResponse({"titles": [a.title for a in articles], "from": [a._state.db for a in articles][:1]})


def articles(request: HttpRequest) -> HttpResponse:
    """POST writes one, GET reads all."""
    if request.method == "POST":
        Article.objects.create(title=request.POST["title"])
        return HttpResponse(status=201)
    return listed(list(Article.objects.order_by("id")))


async def articles_async(request: HttpRequest) -> HttpResponse:
    """The same."""
    if request.method == "POST":
        await Article.objects.acreate(title=request.POST["title"])
        return HttpResponse(status=201)
    return listed([article async for article in Article.objects.order_by("id")])


def raw(request: HttpRequest) -> HttpResponse:
    """Writes below the ORM."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_project_article (title, views) VALUES (%s, 0)", [request.POST["title"]]
        )
    return HttpResponse(status=201)


def rolled_back(request: HttpRequest) -> HttpResponse:
    """Writes what is undone."""
    with transaction.atomic():
        Article.objects.create(title=request.POST["title"])
        transaction.set_rollback(True)
    return HttpResponse(status=200)


def atomic_reads(_request: HttpRequest) -> HttpResponse:
    """Reads on the primary, and writes nothing."""
    with transaction.atomic():
        return listed(list(Article.objects.order_by("id")))


urlpatterns = [
    path(f"{name}{suffix}/", block(view))
    for name, view in (("sync", articles), ("async", articles_async))
    for suffix, block in (("", lambda view: view), ("-primary", use_primary), ("-replica", read_replica))
]
urlpatterns += [
    path("raw/", raw),
    path("rolled-back/", rolled_back),
    path("atomic-reads/", atomic_reads),
]
