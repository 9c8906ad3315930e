"""What the emulator answers over HTTP/1.1: the REST API, and who signed the tokens."""

from aiohttp import web

from .identity import TokenIssuer
from .rest import Rest

_LARGEST_BODY = 150 * 1024 * 1024  # bytes: a batch of the largest tasks, in base64
_HOUR = {"Cache-Control": "public, max-age=3600"}


def make_web(issuer: TokenIssuer, rest: Rest) -> web.Application:
    """The application for HTTP/1.1, in the places where Google has the same."""

    async def configuration(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": issuer.issuer,
                "jwks_uri": f"{request.url.origin()}/oauth2/v3/certs",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            headers=_HOUR,
        )

    async def certificates(_: web.Request) -> web.Response:
        return web.json_response(issuer.certificates(), headers=_HOUR)

    async def keys(_: web.Request) -> web.Response:
        return web.json_response(issuer.jwks(), headers=_HOUR)

    application = web.Application(client_max_size=_LARGEST_BODY)
    application.router.add_route("*", "/v2/{path:.*}", rest.handle)
    application.router.add_get("/.well-known/openid-configuration", configuration)
    application.router.add_get("/oauth2/v1/certs", certificates)
    application.router.add_get("/oauth2/v3/certs", keys)
    return application
