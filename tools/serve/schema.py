"""What /detect takes and gives, as OpenAPI describes it."""

DETECTION = {
    "type": "object",
    "required": ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"],
    "properties": {
        **{key: {"type": "integer", "description": "pixels of the image"} for key in ("xmin", "ymin", "xmax", "ymax")},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "class": {"type": "integer", "minimum": 0},
        "name": {"type": "string"},
    },
}
IMAGE = {
    "type": "object",
    "required": ["name", "width", "height", "detections"],
    "properties": {
        "name": {"type": "string"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "detections": {"type": "array", "items": DETECTION, "description": "surest first"},
    },
}
ANSWER = {
    "type": "object",
    "required": ["images", "seconds"],
    "properties": {
        "images": {"type": "array", "items": IMAGE, "description": "in the order they came"},
        "seconds": {"type": "number", "description": "from the request's head to this answer"},
    },
}
FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}
URLS = {
    "type": "object",
    "required": ["urls"],
    "properties": {"urls": {"type": "array", "items": {"type": "string", "format": "uri"}}},
}
DETECT_BODY = {
    "requestBody": {
        "required": True,
        "description": "Images as files of a form; addresses where the server was started with --allow-urls.",
        "content": {"multipart/form-data": {"schema": FORM}, "application/json": {"schema": URLS}},
    }
}
REFUSALS = {
    400: "no image, or a damaged request",
    403: "an address on a host that is not allowed",
    408: "the request came too slowly",
    413: "too many bytes, pixels or images",
    415: "no image, or a request of another type",
    503: "too many images wait, or the time was over",
}
_DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}}
DETECT_RESPONSES = {
    200: {"description": "what was found", "content": {"application/json": {"schema": ANSWER}}},
    **{
        status: {"description": text, "content": {"application/json": {"schema": _DETAIL}}}
        for status, text in REFUSALS.items()
    },
}
