"""Answer requests as AWS's containers of vLLM and SGLang do, with AWS's package and an engine that has only defaults.

In: JSON on stdin, a list of {"folder": of the model, "environment": {}, "requests": [[body, content type], ...]}.
Out: JSON, a list of {"ping": status and body, "replies": [status, content type and body], "error": of the start}.
The first argument is the folder of AWS's package; everything else comes from this environment.
"""

import asyncio
import json
import os
import sys

sys.path.append(sys.argv[1])

import httpx
import model_hosting_container_standards.sagemaker as standards
from fastapi import FastAPI, Request, Response
from model_hosting_container_standards.common.handler.registry import handler_registry


def make_engine():
    """Return the application of an engine, with its own handlers."""
    app = FastAPI()

    @app.get("/ping")
    @standards.register_ping_handler
    async def ping(request: Request):
        return Response("engine")

    @app.post("/invocations")
    @standards.register_invocation_handler
    async def invocations(request: Request):
        return Response("engine")

    return app


async def answer(case):
    """Start an engine for a model folder, and return its replies."""
    standards.SageMakerFunctionLoader._default_function_loader = None
    handler_registry.__init__()
    os.environ.update({"SAGEMAKER_MODEL_PATH": case["folder"]} | case["environment"])
    app = make_engine()
    try:
        standards.bootstrap(app)
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}
    finally:
        for name in case["environment"]:
            del os.environ[name]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        ping = await client.get("/ping")
        replies = []
        for body, content_type in case["requests"]:
            reply = await client.post("/invocations", content=body, headers={"content-type": content_type})
            replies.append([reply.status_code, reply.headers.get("content-type"), reply.text])
    return {"ping": [ping.status_code, ping.text], "replies": replies}


async def main():
    results = [await answer(case) for case in json.load(sys.stdin)]
    print(json.dumps(results))


asyncio.run(main())
