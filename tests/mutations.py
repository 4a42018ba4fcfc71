"""Documents with another value in one place."""

import copy


def places(document, path=()):
    """The paths to all values inside a document."""
    yield path
    items = document.items() if isinstance(document, dict) else ()
    items = enumerate(document) if isinstance(document, list) else items
    for key, value in items:
        yield from places(value, (*path, key))


def replaced(document, path, value):
    """The document with another value in one place."""
    if not path:
        return value
    document = copy.copy(document)
    document[path[0]] = replaced(document[path[0]], path[1:], value)
    return document
