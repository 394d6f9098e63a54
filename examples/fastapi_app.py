"""Orders with FastAPI: written to the primary, read from replicas, seen at once by whoever placed them.

Against a cluster on this machine:

    pip install '.[lab,metrics,sqlalchemy]' greenlet fastapi uvicorn
    replctl lab up --dir /tmp/lab --replicas 2
    export REPLCTL_INVENTORY=/tmp/lab/inventory.toml
    uvicorn --app-dir examples fastapi_app:app --port 8000

    curl -i -b jar -c jar --json '{"item": "tea"}' localhost:8000/orders
    curl -i -b jar -c jar localhost:8000/orders    # X-Served-By tells which node has answered
    curl localhost:8000/metrics
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from replctl.adapters.metrics import metrics_of
from replctl.adapters.sqlalchemy import AsyncRouter
from replctl.adapters.web import AsgiRouting
from replctl.core.routing import KeyRing
from replctl.errors import NodeSwitched, RefusedError
from replctl.inventory import load_one
from replctl.pg.monitor import Monitor

monitor = Monitor(load_one(Path(os.environ["REPLCTL_INVENTORY"])))
metrics = metrics_of(monitor)
keys = KeyRing((os.environ.get("APP_SECRET", "only good enough for the lab").encode(),))


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


class NewOrder(BaseModel):
    item: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with monitor:
        async with AsyncRouter(monitor, user="postgres", metrics=metrics) as app.state.router:
            async with app.state.router.write_session() as session:
                await session.run_sync(lambda s: Base.metadata.create_all(s.connection()))
            yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(AsgiRouting, monitor=monitor, keys=keys, secure=False)  # secure: wherever there is TLS


@app.exception_handler(NodeSwitched)
@app.exception_handler(RefusedError)  # NoPrimary, NoReplica
async def come_back(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "1"})


@app.post("/orders", status_code=201)
async def place(new: NewOrder, response: Response) -> dict[str, int]:
    async with app.state.router.write_session() as session:
        order = Order(item=new.item)
        session.add(order)
        await session.flush()
        response.headers["X-Served-By"] = session.sync_session.decision.node
        return {"id": order.id}


@app.get("/orders")
async def orders(response: Response) -> list[str]:
    async with app.state.router.read_session() as session:
        found = await session.scalars(select(Order.item).order_by(Order.id))
        response.headers["X-Served-By"] = session.sync_session.decision.node
        return list(found)


@app.get("/metrics")
async def numbers() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
