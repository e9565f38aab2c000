"""What a browser does with our pages, for a test client: signs in, and sends a form with its token."""

import re
from html.parser import HTMLParser


def attributes_of(page):
    """Those of all elements of a page."""
    collected, parser = [], HTMLParser()
    parser.handle_starttag = lambda _, attributes: collected.extend(attributes)
    parser.feed(page)
    return collected


def token(client, path="/sign-in"):
    return re.search(r'name="csrf" value="(\w+)"', client.get(path).text)[1]


def sign_in(client, key, goes_to=""):
    return client.post("/sign-in", data={"key": key, "next": goes_to, "csrf": token(client)})
