"""For an ASGI server: the project's own asynchronous stack."""

from django.core.asgi import get_asgi_application

application = get_asgi_application()
