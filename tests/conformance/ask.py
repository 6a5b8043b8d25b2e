"""Send requests to a server and save the replies: ask.py URL REQUESTS.json REPLIES.json

REQUESTS.json is a list of [body, headers], REPLIES.json one of [status, body, headers]. Bodies are in base64. The
names of headers in replies are in lower case.
"""

import base64
import json
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def send(url, body, headers):
    """Send one request, and return [status, body, headers] of its reply."""
    request = Request(url, base64.b64decode(body), headers)
    try:
        reply = urlopen(request, timeout=60)
    except HTTPError as e:
        reply = e
    reply_body = base64.b64encode(reply.read()).decode()
    reply_headers = {name.lower(): value for name, value in reply.headers.items()}
    return [reply.status, reply_body, reply_headers]


def main(url, requests_file, replies_file):
    with open(requests_file) as f:
        requests = json.load(f)
    replies = [send(url, body, headers) for body, headers in requests]
    with open(replies_file, "w") as f:
        json.dump(replies, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
