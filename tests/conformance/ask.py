"""Sends requests, in a network namespace if it is started in one: ask.py URL REQUESTS.json REPLIES.json"""

import base64
import json
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

url, asked, out = sys.argv[1:]
replies = []
for body, headers in json.load(open(asked)):
    try:
        reply = urlopen(Request(url, base64.b64decode(body), headers), timeout=60)
    except HTTPError as e:
        reply = e
    replies.append(
        [reply.status, base64.b64encode(reply.read()).decode(), {k.lower(): v for k, v in reply.headers.items()}]
    )
json.dump(replies, open(out, "w"))
